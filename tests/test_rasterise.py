"""Drawn shapes beside their area, found by cutting each pixel into many."""

import numpy as np
import pytest
from reverie.envs.rasterise import boxes, capsules, discs, rings

CUTS = 24
HEIGHT, WIDTH = 14, 19


def area(inside):
    """Share of each pixel's points (x, y) for which ``inside(x, y)`` holds."""
    y = (np.arange(HEIGHT * CUTS) + 0.5) / CUTS
    x = (np.arange(WIDTH * CUTS) + 0.5) / CUTS
    points = inside(x[None, :], y[:, None])
    return points.reshape(HEIGHT, CUTS, WIDTH, CUTS).mean(axis=(1, 3))


def drawn(draw, *arguments, num=1, **options):
    frames = np.zeros((num, HEIGHT, WIDTH, 1), dtype=np.uint8)
    draw(frames, *(np.asarray(argument, dtype=float) for argument in arguments), **options)
    return frames[0, :, :, 0] / 255.0


def to_segment(x, y, start, end):
    along = np.subtract(end, start)
    share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along), 0.0, 1.0)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])


@pytest.mark.parametrize("centre", [(7.0, 6.0), (8.31, 6.77), (0.4, 13.2), (-1.5, 5.0), (18.9, -2.0)])
def test_disc(centre):
    expected = area(lambda x, y: np.hypot(x - centre[0], y - centre[1]) <= 3.2)
    found = drawn(discs, [[centre]], 3.2)
    assert expected.sum() > 0.1
    np.testing.assert_allclose(found, expected, atol=0.09)  # a ramp across the edge is nearly the area


def test_ring_leaves_its_inside_free():
    expected = area(lambda x, y: np.abs(np.hypot(x - 9.2, y - 7.1) - 4.0) <= 1.0)
    found = drawn(rings, [[(9.2, 7.1)]], 5.0, 3.0)
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert found[7, 9] == 0.0


@pytest.mark.parametrize(
    ("start", "end"), [((3.0, 3.0), (12.0, 9.0)), ((4.2, 11.0), (4.2, 2.5)), ((16.0, 7.0), (25.0, 7.5))]
)
def test_capsule(start, end):
    expected = area(lambda x, y: to_segment(x, y, start, end) <= 1.6)
    np.testing.assert_allclose(drawn(capsules, [[start]], [[end]], 1.6), expected, atol=0.12)


def test_capsule_of_no_length_is_a_disc():
    point = [[(6.3, 7.7)]]
    np.testing.assert_array_equal(drawn(capsules, point, point, 2.5), drawn(discs, point, 2.5))


@pytest.mark.parametrize(
    ("low", "high"), [((2.0, 3.0), (5.0, 9.0)), ((2.25, 3.5), (2.75, 9.125)), ((-3.0, 12.5), (30.0, 20.0))]
)
def test_box_covers_its_area(low, high):
    expected = area(lambda x, y: (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
    np.testing.assert_allclose(drawn(boxes, [[low]], [[high]]), expected, atol=0.5 / CUTS)


def test_hard_discs_have_no_grey():
    found = drawn(discs, [[(8.3, 6.6)]], 3.2, hard=True)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_array_equal(found, (np.hypot(columns - 8.3, rows - 6.6) <= 3.2).astype(float))


def test_what_lies_outside_draws_nothing_and_moving_moves():
    for centre in [(-10.0, 5.0), (40.0, 5.0), (5.0, -10.0), (5.0, 40.0)]:
        assert drawn(discs, [[centre]], 3.0).sum() == 0.0
    a, b = drawn(discs, [[(6.4, 6.3)]], 2.0), drawn(discs, [[(8.4, 7.3)]], 2.0)
    np.testing.assert_array_equal(a[:-1, :-2], b[1:, 2:])


def test_colours_order_and_rows_of_the_batch():
    frames = np.zeros((2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    centres = np.array([[(5.0, 5.0), (7.0, 5.0)], [(12.0, 9.0), (30.0, 9.0)]])
    discs(frames, centres, 2.5, np.array([[255.0, 0.0, 0.0], [0.0, 100.0, 255.0]]))
    assert frames[0, 4, 3].tolist() == [255, 0, 0]
    assert frames[0, 4, 6].tolist() == [0, 100, 255], "the second shape lies on top"
    assert frames[1, 8, 11].tolist() == [255, 0, 0] and frames[1, :, :, 1:].sum() == 0
    alone = np.zeros((1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    discs(alone, centres[1:], 2.5, np.array([[255.0, 0.0, 0.0], [0.0, 100.0, 255.0]]))
    np.testing.assert_array_equal(alone[0], frames[1])


def test_half_covered_pixels_mix_with_what_is_there():
    frames = np.full((1, 4, 4, 1), 200, dtype=np.uint8)
    boxes(frames, np.array([[[1.0, 1.0]]]), np.array([[[2.0, 1.5]]]), 100.0)
    assert frames[0, 1, 1, 0] == 150 and frames.sum() == 15 * 200 + 150
