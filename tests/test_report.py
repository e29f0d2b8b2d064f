"""The report page: it stands alone, and its pictures show what they were given."""

import base64
import re

import numpy as np
import pytest
from reverie.scripts import report


def test_page_stands_alone_and_escapes():
    svg = report.horizon_figure({"error": {"model": np.arange(3.0)}}, levels={"90 %": 0.9}, context=4)
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    parts = [report.figure(svg, "a < b"), report.video(frames, "dream"), report.table(["x"], [[0.123456], ["<i>"]])]
    text = report.page("Title", "lead", {"seconds": 12.345678}, [report.Section("Part", "words & more", parts)])
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 2
    assert all(source.startswith("data:") for source in sources)
    assert "href" not in text
    assert "<b>12.35</b>" in text
    assert "<td>0.1235</td>" in text
    assert "&lt;i&gt;" in text and "<i>" not in text
    assert "a &lt; b" in text and "words &amp; more" in text
    embedded = base64.b64decode(sources[0].split(",")[1]).decode()
    assert embedded == svg and "steps ahead, after 4 frames" in re.sub(r"<!-- | -->", "", embedded)


def test_mp4_round_trip():
    import imageio.v3 as iio

    frames = np.repeat(np.array([0, 255], np.uint8), 5).reshape(-1, 1, 1, 1) * np.ones((1, 31, 33, 3), np.uint8)
    read = iio.imread(report.mp4(frames, fps=10), extension=".mp4")
    assert read.shape == (10, 32, 34, 3)
    assert np.abs(read[:, :31, :33].astype(int) - frames).max() <= 4


@pytest.mark.parametrize("frames", [np.zeros((3, 8, 8, 1), np.uint8), np.zeros((3, 8, 8, 3)), np.zeros((0, 8, 8, 3))])
def test_mp4_refuses_what_is_no_video(frames):
    with pytest.raises(ValueError, match="a video is"):
        report.mp4(frames)


@pytest.mark.parametrize("channels", [1, 3])
def test_dream_video_places_the_pictures(channels):
    rng = np.random.default_rng(0)
    truth, dream = rng.integers(0, 256, (2, 2, 5, 8, 8, channels)).astype(np.uint8)
    shown = report.dream_video(truth, dream, context=2, size=16)
    gap = report.GAP
    assert shown.shape == (5, 3 * (16 + gap), 2 * 16 + gap, 3)
    left = 16 + gap  # the second sequence; every second pixel, as each was repeated twice
    assert np.array_equal(shown[:, 0:16:2, left : left + 16 : 2], np.broadcast_to(truth[1], (5, 8, 8, 3)))
    top = 16 + 2 * gap
    assert np.array_equal(shown[:, top : top + 16 : 2, left : left + 16 : 2], np.broadcast_to(dream[1], (5, 8, 8, 3)))
    band = shown[:, top - 1, 0]
    assert [tuple(colour) for colour in band.tolist()] == [report.WATCHING] * 2 + [report.DREAMING] * 3


def test_equal_pictures_differ_by_grey():
    frames = np.full((1, 2, 8, 8, 1), 200, np.uint8)
    shown = report.dream_video(frames, frames, context=1, size=8)
    assert (shown[:, -8:] == 128).all()


def test_dream_video_refuses_unequal_shapes():
    with pytest.raises(ValueError, match="one shape"):
        report.dream_video(np.zeros((1, 2, 8, 8, 1), np.uint8), np.zeros((1, 3, 8, 8, 1), np.uint8), 1)
    with pytest.raises(ValueError, match="2 channels"):
        report.enlarge(np.zeros((8, 8, 2), np.uint8), 8)


def test_film_strip_places_the_pictures():
    rng = np.random.default_rng(0)
    truth, dream = rng.integers(0, 256, (2, 9, 8, 8, 1)).astype(np.uint8)
    shown = report.film_strip(truth, dream, context=4, every=2, size=8)
    gap = report.GAP
    assert shown.shape == (16 + gap, 5 * (8 + gap) - gap, 3)
    for column, t in enumerate((0, 2, 4, 6, 8)):
        part = shown[:, column * (8 + gap) :][:, :8]
        assert (part[:8] == truth[t]).all() and (part[-8:] == dream[t]).all()
        assert tuple(part[8, 0]) == (report.WATCHING if t < 4 else report.DREAMING)


def test_row_video_holds_the_shorter_clip():
    short, long = np.full((2, 8, 8, 1), 10, np.uint8), np.full((5, 8, 8, 3), 20, np.uint8)
    shown = report.row_video([short, long], size=8)
    assert shown.shape == (5, 8, 16 + report.GAP, 3)
    assert (shown[:, :, :8] == 10).all() and (shown[:, :, -8:] == 20).all()


def test_returns_figure_names_everyone():
    svg = report.returns_figure({"random": [-3.0, -2.0], "agent": [-1.0]})
    assert "<!-- random -->" in svg and "<!-- agent -->" in svg
