"""Pictures that worlds are made of: photographs and handwritten digits that ship with the package, a user's own folder.

Photographs come from scikit-image and scikit-learn, digits from MNIST; their licences lie beside them in ``assets``.
Both are split once and for all: what is in "test" is never seen in "train". Nothing is drawn at random when a bank of
crops is made but from a generator with a fixed seed, so that number 17 of a bank is the same picture everywhere.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numba import njit

ASSETS = Path(__file__).parent / "assets"
SPLITS = ("train", "test")
TEST_PHOTOGRAPHS = ("chelsea", "coins", "flower", "gravel")
DIGITS_PER_CLASS, TEST_DIGITS_PER_CLASS = 500, 100
SPRITE = 20  # pixels per side of the largest digit
DULL = 16.0  # a crop whose grey levels deviate by less is drawn again
CONVERTED = ("1", "CMYK", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa")  # modes of Pillow that need it to make RGB
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@lru_cache(maxsize=8)
def crops(folder: str | None, split: str, num: int, size: int, zoom: tuple[float, float]) -> np.ndarray:
    """A bank of square crops, uint8 ``(num, size, size, 3)``, read-only.

    Crop i is cut from picture i modulo their number, at a uniform place; its side is a uniform share, between the two
    of ``zoom``, of the picture's shorter side (but at least ``size`` pixels), and is shrunk to ``size`` by averaging.
    Dull crops (a piece of plain sky, say) are drawn again, up to 20 times.

    Args:
        folder: of a user's pictures; None: the photographs of this package.
        split: "train" or "test". Of a folder, every fifth file in the order of names is for testing.
        num: number of crops.
        size: pixels per side.
        zoom: least and greatest share of the shorter side.

    Raises:
        ValueError: the folder is missing, has no pictures (of this split), or one that cannot be read or is too small.
    """
    names = _files(folder, split)
    bank = np.empty((num, size, size, 3), dtype=np.uint8)
    for start, path in enumerate(names[:num]):
        picture = _read(path)
        shorter = min(picture.shape[:2])
        if shorter < size:
            raise ValueError(
                f"{path}: found a picture of {picture.shape[1]}x{picture.shape[0]} pixels, expected at least {size} a "
                "side, the size of a map; take a smaller map_size or larger pictures"
            )
        rng = np.random.default_rng([SPLITS.index(split), start])
        for index in range(start, num, len(names)):
            for _ in range(20):
                side = max(round(shorter * rng.uniform(*zoom)), size)
                top, left = rng.integers([picture.shape[0] - side + 1, picture.shape[1] - side + 1])
                bank[index] = shrink(picture[top : top + side, left : left + side], size, size)
                if bank[index].mean(-1).std() >= DULL:
                    break
    bank.flags.writeable = False
    return bank


@lru_cache(maxsize=2)
def digits(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MNIST digits cut tightly: sprites uint8 ``(N, 20, 20)`` flush left and top, (width, height) ``(N, 2)``, classes.

    400 of each class are for training and 100 others for testing; classes ``(N,)`` are 0 to 9, in turn.
    """
    sheet = _read_raw(ASSETS / "digits.png")
    per_row = sheet.shape[1] // SPRITE
    tiles = sheet.reshape(-1, SPRITE, per_row, SPRITE).swapaxes(1, 2).reshape(10, DIGITS_PER_CLASS, SPRITE, SPRITE)
    cut = DIGITS_PER_CLASS - TEST_DIGITS_PER_CLASS
    tiles = tiles[:, :cut] if split == "train" else tiles[:, cut:]
    sprites = np.ascontiguousarray(tiles.swapaxes(0, 1).reshape(-1, SPRITE, SPRITE))
    used = np.stack([sprites.any(axis=1), sprites.any(axis=2)], axis=1)  # of columns, of rows
    extents = (used * np.arange(1, SPRITE + 1)).max(-1).astype(np.float64)
    classes = np.arange(len(sprites)) % 10
    for array in (sprites, extents, classes):
        array.flags.writeable = False
    return sprites, extents, classes


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A smaller picture, uint8 ``(height, width, C)``: each new pixel is the mean over the area that it covers."""
    out = np.empty((height, width, picture.shape[2]), dtype=np.uint8)
    _shrink(np.ascontiguousarray(picture), out)
    return out


def _files(folder: str | None, split: str) -> list[Path]:
    if folder is None:
        paths = sorted((ASSETS / "photographs").glob("*.png"))
        return [path for path in paths if (path.stem in TEST_PHOTOGRAPHS) == (split == "test")]
    if not Path(folder).is_dir():
        raise ValueError(f"maps is {str(folder)!r}, which is no folder; expected a folder with pictures")
    # a folder may have a picture's name; a broken link is kept, to be told of when it is read
    found = [path for path in Path(folder).iterdir() if not path.is_dir()]
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    chosen = [path for i, path in enumerate(paths) if (i % 5 == 4) == (split == "test")]
    if not chosen:
        what = f"only {len(paths)}, too few for a test split (every fifth)" if paths else "none"
        raise ValueError(f"maps is {str(folder)!r}; expected pictures ({', '.join(SUFFIXES)}) in it, found {what}")
    return chosen


def _read(path: Path) -> np.ndarray:
    """A picture as RGB, uint8 ``(H, W, 3)``."""
    picture = _read_raw(path)
    picture = picture[..., None] if picture.ndim == 2 else picture
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 2, 3, 4):
        raise ValueError(
            f"{path}: found {picture.dtype} of shape {picture.shape}, expected one picture of 8 bits, grey or RGB; "
            "convert it, or take it out of the folder"
        )
    return np.repeat(picture[..., :1], 3, axis=-1) if picture.shape[2] < 3 else picture[..., :3]


def _read_raw(path: Path) -> np.ndarray:
    import imageio.v3

    try:
        # index 0: of an animation, the first frame
        mode = imageio.v3.immeta(path, plugin="pillow", index=0).get("mode")
        return imageio.v3.imread(path, plugin="pillow", index=0, mode="RGB" if mode in CONVERTED else None)
    except Exception as error:  # decoders raise errors of many types
        raise ValueError(f"{path}: cannot be read as a picture ({error}); mend it or take it out") from error


@njit(cache=True)
def _shrink(picture, out):
    down, across = picture.shape[0] / out.shape[0], picture.shape[1] / out.shape[1]
    total = np.empty(out.shape[2])
    for row in range(out.shape[0]):
        top, bottom = row * down, (row + 1) * down
        for column in range(out.shape[1]):
            left, right = column * across, (column + 1) * across
            total[:] = 0.5 * down * across  # so that what is left after truncation is rounded
            for i in range(int(top), min(int(np.ceil(bottom)), picture.shape[0])):
                tall = min(bottom, i + 1.0) - max(top, float(i))
                for j in range(int(left), min(int(np.ceil(right)), picture.shape[1])):
                    area = tall * (min(right, j + 1.0) - max(left, float(j)))
                    for c in range(out.shape[2]):
                        total[c] += area * picture[i, j, c]
            for c in range(out.shape[2]):
                out[row, column, c] = np.uint8(min(total[c] / (down * across), 255.0))
