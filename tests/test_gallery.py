"""docs/environments.md is what the code says, and every environment has its picture."""

import imageio.v3 as iio
import numpy as np
import pytest
from reverie.envs import ENVIRONMENTS
from reverie.scripts import gallery
from reverie.scripts.results import SOURCE

COMMAND = "run `make docs` (python -m reverie.scripts.gallery)"


def test_the_page_is_what_the_code_says():
    assert (SOURCE / gallery.PAGE).read_text() == gallery.page(ENVIRONMENTS), COMMAND


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_every_environment_has_a_small_moving_picture(name):
    path = SOURCE / gallery.picture(name)
    assert path.exists(), COMMAND
    assert path.stat().st_size <= gallery.MAX_BYTES
    frames = iio.imread(path)
    assert len(frames) >= 10 and frames.shape[2] >= frames.shape[1] >= 64
    assert (frames[0] != frames[-1]).any()


def test_no_picture_is_left_over():
    expected = {gallery.picture(name).name for name in ENVIRONMENTS}
    assert {path.name for path in (SOURCE / gallery.PICTURES).iterdir()} == expected


def test_the_page_tells_spaces_states_rewards_and_the_documentation():
    text = gallery.page({name: ENVIRONMENTS[name] for name in ("reverie/Pendulum-v0", "reverie/PendulumDamped-v0")})
    assert text.count("\n## ") == 1 and "\n## Pendulum\n" in text and text.count("](figures/envs/") == 2
    assert "reward from -16.27 to 0" in text and "true state, 2 numbers: angle, angular_velocity" in text
    assert "**Starting State.** Angle uniform" in text and "``" not in text.replace("```", "")


def test_a_gif_keeps_frames_and_pictures():
    frames = np.zeros((12, 20, 30, 3), np.uint8)
    for t in range(12):
        frames[t, :, : 2 * t + 1] = (250, 20, 20)
    np.testing.assert_allclose(iio.imread(gallery.gif(frames, 4), extension=".gif"), frames, atol=8)


def test_check_tells_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "SOURCE", tmp_path)
    monkeypatch.setattr(gallery, "draw", lambda name: b"GIF89a")
    monkeypatch.setattr("reverie.envs.ENVIRONMENTS", {name: ENVIRONMENTS[name] for name in list(ENVIRONMENTS)[:2]})
    assert gallery.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert gallery.main([]) == 0
    assert gallery.main(["--check"]) == 0
    assert "drawn" in capsys.readouterr().out
    assert gallery.main(["--redraw", "Pendulum-v0"]) == 0
    assert capsys.readouterr().out == "drawn: docs/figures/envs/Pendulum-v0.gif\n"
