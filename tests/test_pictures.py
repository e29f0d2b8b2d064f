"""Banks of pictures: the shipped files are what their script makes, splits are apart, folders of a user's own."""

import imageio.v3
import numpy as np
import pytest
from PIL import Image
from reverie.envs import pictures
from reverie.scripts import make_assets

PHOTOGRAPHS = sorted(path.stem for path in (pictures.ASSETS / "photographs").glob("*.png"))


def test_shipped_photographs_are_what_the_script_makes():
    assert sorted(make_assets.PHOTOGRAPHS) == PHOTOGRAPHS
    for name in ("chelsea", "grass"):
        shipped = imageio.v3.imread(pictures.ASSETS / "photographs" / f"{name}.png")
        np.testing.assert_array_equal(shipped, make_assets.photograph(name).squeeze())
        assert min(shipped.shape[:2]) == make_assets.SHORTER_SIDE


def test_train_and_test_photographs_are_apart_and_all_used():
    train = {path.stem for path in pictures._files(None, "train")}
    test = {path.stem for path in pictures._files(None, "test")}
    assert not train & test and sorted(train | test) == PHOTOGRAPHS
    assert (len(train), len(test)) == (10, 4)


def exact_shrink(picture, height, width):
    """Every pixel cut into height × width little ones, so that each new pixel is a block of them."""
    fine = picture.repeat(height, axis=0).repeat(width, axis=1).astype(float)
    blocks = fine.reshape(height, picture.shape[0], width, picture.shape[1], -1)
    return np.floor(blocks.mean((1, 3)) + 0.5)


@pytest.mark.parametrize(("shape", "to"), [((7, 5, 3), (3, 2)), ((8, 8, 1), (4, 4)), ((11, 13, 3), (11, 13))])
def test_shrinking_is_the_mean_over_areas(shape, to):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = pictures.shrink(picture, *to)
    off = np.abs(found.astype(float) - exact_shrink(picture, *to))
    assert off.max() <= 1 and (off > 0).mean() < 0.05  # halves may be rounded either way


def test_crops_are_varied_and_the_same_in_banks_of_any_length():
    bank = pictures.crops(None, "train", 600, 32, (0.3, 1.0))
    assert bank.shape == (600, 32, 32, 3) and not bank.flags.writeable
    deviation = bank.mean(-1).std(axis=(1, 2))
    assert np.quantile(deviation, 0.01) > pictures.DULL and (deviation < pictures.DULL).mean() < 0.005
    assert len({crop.tobytes() for crop in bank}) > 590
    np.testing.assert_array_equal(bank[:70], pictures.crops(None, "train", 70, 32, (0.3, 1.0)))
    # neighbours in the bank come from different photographs, every tenth from the same
    colour = bank.mean((1, 2))
    between = np.linalg.norm(colour[1:] - colour[:-1], axis=-1).mean()
    within = np.linalg.norm(colour[10:] - colour[:-10], axis=-1).mean()
    assert between > 2.0 * within


def test_digits_are_split_by_class_and_flush():
    sprites, extents, classes = pictures.digits("train")
    others, _, other_classes = pictures.digits("test")
    assert sprites.shape == (4000, 20, 20) and others.shape == (1000, 20, 20)
    np.testing.assert_array_equal(np.bincount(classes), 400)
    np.testing.assert_array_equal(np.bincount(other_classes), 100)
    assert not {digit.tobytes() for digit in sprites} & {digit.tobytes() for digit in others}
    for digit, (width, height) in zip(sprites[:200], extents[:200].astype(int), strict=True):
        assert digit[0].any() and digit[:, 0].any() and digit[height - 1].any() and digit[:, width - 1].any()
        assert not digit[height:].any() and not digit[:, width:].any()
    # the classes are what they say: nearest class mean is right for most of the digits held out
    means = np.stack([sprites[classes == k].mean(0).ravel() for k in range(10)])
    distance = ((others.reshape(-1, 1, 400) - means) ** 2).sum(-1)
    assert (distance.argmin(-1) == other_classes).mean() > 0.6


def write(path, shape, dtype=np.uint8):
    imageio.v3.imwrite(path, np.random.default_rng(len(path.name)).integers(0, 256, shape).astype(dtype))


def test_a_users_folder_in_grey_colour_and_with_alpha(tmp_path):
    for name, shape in {"a.png": (40, 60, 3), "b.PNG": (50, 40), "c.jpg": (64, 64, 3), "d.png": (40, 40, 4)}.items():
        write(tmp_path / name, shape)
    write(tmp_path / "e.png", (32, 32, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    bank = pictures.crops(str(tmp_path), "train", 8, 32, (1.0, 1.0))
    np.testing.assert_array_equal(bank[1, ..., 0], bank[1, ..., 2])
    (only,) = pictures.crops(str(tmp_path), "test", 1, 32, (1.0, 1.0))  # the fifth, taken as it is
    np.testing.assert_array_equal(only, imageio.v3.imread(tmp_path / "e.png"))


def test_other_kinds_of_pictures_become_rgb(tmp_path):
    across, down = np.meshgrid(np.linspace(20, 220, 40), np.linspace(20, 220, 40))
    smooth = Image.fromarray(np.stack([across, down, 240 - across], axis=-1).astype(np.uint8))
    kinds = {"a.jpg": "CMYK", "b.tif": "CMYK", "c.tif": "YCbCr", "d.tif": "LAB", "e.tif": "RGB", "f.png": "RGBA"}
    for name, mode in kinds.items():
        smooth.convert(mode).save(tmp_path / name)
    expected = np.asarray(smooth).astype(float)
    for name in kinds:
        found = pictures._read(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == (40, 40, 3)
        assert np.abs(found - expected).mean() < 5.0, name
    smooth.convert("1").save(tmp_path / "black and white.png")
    assert set(np.unique(pictures._read(tmp_path / "black and white.png"))) == {0, 255}


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    first, second = (Image.new("RGB", (40, 36), colour) for colour in ((200, 10, 10), (10, 10, 200)))
    first.save(tmp_path / "still.gif")
    for name in ("moving.gif", "moving.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
    for name in ("still.gif", "moving.gif", "moving.png"):
        found = pictures._read(tmp_path / name)
        assert found.shape == (36, 40, 3) and (found == (200, 10, 10)).all(), name
    assert pictures.crops(str(tmp_path), "train", 3, 32, (1.0, 1.0)).shape == (3, 32, 32, 3)


def test_a_folder_named_like_a_picture_is_none(tmp_path):
    (tmp_path / "b.png").mkdir()
    write(tmp_path / "c.png", (40, 40, 3))
    assert pictures._files(str(tmp_path), "train") == [tmp_path / "c.png"]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    def refused(message, **options):
        arguments = {"folder": str(tmp_path), "split": "train", "num": 4, "size": 32, "zoom": (0.3, 1.0)} | options
        with pytest.raises(ValueError, match=message):
            pictures.crops(**arguments)

    refused("which is no folder", folder=str(tmp_path / "nowhere"))
    refused("found none")
    write(tmp_path / "a.png", (31, 64, 3))
    refused(r"a\.png: found a picture of 64x31 pixels, expected at least 32")
    refused("only 1, too few for a test split", split="test")
    (tmp_path / "a.png").write_bytes(b"\x89PNG broken")
    refused(r"a\.png: cannot be read as a picture")
    (tmp_path / "a.png").unlink()
    write(tmp_path / "deep.png", (40, 40), np.uint16)
    refused("found uint16")
