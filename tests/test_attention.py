"""Reading and writing windows: beside grid_sample, exact inverses where pixels meet pixels, any leading shape."""

import math

import pytest
import torch
from reverie.world_models.objects import attention
from reverie.world_models.objects.attention import GlimpseDecoder, GlimpseEncoder, read, write
from torch.nn import functional


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_windows(count, seed=1):
    numbers = noise(count, 4, seed=seed)
    return torch.cat([0.1 + 0.8 * numbers[:, :2].sigmoid(), 0.8 * numbers[:, 2:]], -1)


def matrix(windows, inverse=False):
    """The 2x3 matrices that grid_sample wants."""
    width, height, x, y = windows.unbind(-1)
    zero = torch.zeros_like(x)
    if inverse:
        width, height, x, y = 1 / width, 1 / height, -x / width, -y / height
    return torch.stack([torch.stack([width, zero, x], -1), torch.stack([zero, height, y], -1)], -2)


@pytest.mark.parametrize("inverse", [False, True])
def test_both_directions_are_grid_sample(inverse):
    images, windows = noise(7, 3, 9, 9) if inverse else noise(7, 3, 11, 8), some_windows(7)
    out = (11, 8) if inverse else (5, 5)
    grid = functional.affine_grid(matrix(windows, inverse), (7, 3, *out), align_corners=False)
    expected = functional.grid_sample(images, grid, align_corners=False)
    ours = write(images, windows, out) if inverse else read(images, windows, 5)
    torch.testing.assert_close(ours, expected)


def test_they_are_inverses_where_pixels_meet_pixels():
    """Windows of 4 of 12 rows and 4 of 8 columns that begin at whole pixels: nothing is lost."""
    glimpses = noise(3, 2, 4, 4)
    places = torch.tensor([(0, 0), (3, 2), (8, 4)], dtype=torch.float64)  # first row and column
    y, x = (2 * (places[:, 0] + 2) / 12 - 1, 2 * (places[:, 1] + 2) / 8 - 1)
    windows = torch.stack([torch.full_like(x, 4 / 8), torch.full_like(x, 4 / 12), x, y], -1)
    frames = write(glimpses, windows, (12, 8))
    torch.testing.assert_close(read(frames, windows, 4), glimpses)
    for frame, glimpse, (top, left) in zip(frames, glimpses, places.long().tolist(), strict=True):
        expected = torch.zeros(2, 12, 8, dtype=torch.float64)
        expected[:, top : top + 4, left : left + 4] = glimpse
        torch.testing.assert_close(frame, expected)
    inside = torch.zeros(3, 1, 12, 8, dtype=torch.float64)
    pictures = noise(3, 2, 12, 8, seed=4)
    for k, (top, left) in enumerate(places.long().tolist()):
        inside[k, :, top : top + 4, left : left + 4] = 1
    torch.testing.assert_close(write(read(pictures, windows, 4), windows, (12, 8)), pictures * inside)


@pytest.mark.parametrize("direction", ["read of write", "write of read"])
def test_they_are_inverses_on_what_is_smooth(direction):
    """Anywhere and at any scale, what is left over shrinks with the square of the sampling distance."""

    def error(size):
        line = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
        bump = (0.5 * math.pi * line).cos().square()
        image = (bump[:, None] * bump)[None]
        if direction == "read of write":
            windows = torch.tensor([[0.5, 0.4, 0.1, -0.2], [0.3, 0.6, -0.5, 0.3]], dtype=torch.float64)
            return (read(write(image, windows, (2 * size, 2 * size)), windows, size) - image).abs().max()
        windows = torch.tensor([1.3, 1.2, 0.05, -0.1], dtype=torch.float64)  # the whole frame lies within
        return (write(read(image, windows, 2 * size), windows, (size, size)) - image).abs().max()

    coarse, fine = error(24), error(48)
    assert fine < 0.02 and fine < 0.4 * coarse


def test_leading_shapes_broadcast():
    frames, windows = noise(2, 1, 3, 6, 7), some_windows(10).reshape(2, 5, 4)
    glimpses = read(frames, windows, 4)
    assert glimpses.shape == (2, 5, 3, 4, 4)
    for b in range(2):
        for n in range(5):
            torch.testing.assert_close(glimpses[b, n], read(frames[b, 0], windows[b, n], 4))
            written = write(glimpses, windows, (6, 7))[b, n]
            torch.testing.assert_close(written, write(glimpses[b, n], windows[b, n], (6, 7)))


def test_gradients_reach_images_and_windows():
    windows = some_windows(2).requires_grad_()
    frames, glimpses = noise(2, 1, 5, 6).requires_grad_(), noise(2, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: read(*x, 3), (frames, windows))
    assert torch.autograd.gradcheck(lambda *x: write(*x, (5, 6)), (glimpses, windows))


def test_the_edge_is_where_an_image_of_ones_ends():
    frames, windows = noise(2, 1, 3, 6, 7), some_windows(10).reshape(2, 5, 4)
    with_ones = torch.cat([frames, torch.ones_like(frames[..., :1, :, :])], -3)
    torch.testing.assert_close(read(frames, windows, 4, edge=True), read(with_ones, windows, 4))
    half_inside = torch.tensor([0.5, 0.5, 1.0, 0.0], dtype=torch.float64)
    edge = read(noise(1, 8, 8), half_inside, 4, edge=True)[-1]
    torch.testing.assert_close(edge, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand(4, 4))


def test_windows_outside_of_the_frame_read_and_write_nothing():
    away = torch.tensor([[0.2, 0.2, 3.0, 0.0], [0.2, 0.2, 0.0, -9.0]], dtype=torch.float64, requires_grad=True)
    found = torch.cat([read(noise(2, 1, 8, 8), away, 4).flatten(), write(noise(2, 1, 4, 4), away, (8, 8)).flatten()])
    assert not bool(found.any())
    found.sum().backward()
    assert bool(torch.isfinite(away.grad).all())


def test_numbers_windows_and_boxes():
    where = noise(5, 4)
    windows = attention.windows_of(where, 0.1, 0.7)
    assert bool((windows[:, :2] > 0.1).all() and (windows[:, :2] < 0.7).all())
    torch.testing.assert_close(attention.where_of(windows, 0.1, 0.7), where)
    box = attention.boxes_of(torch.tensor([0.5, 0.25, 0.0, 0.5]), (32, 16))
    torch.testing.assert_close(box, torch.tensor([4.0, 20.0, 12.0, 28.0]))

    windows = torch.tensor([[0.5, 0.2, 0.5, 0.8], [0.5, 0.2, 1.4, 0.0], [0.5, 0.2, -1.0, 1.1], [0.5, 0.2, 3.0, 0.0],
                            [0.5, 0.25, 0.0, -1.25], [0.5, 0.25, -1.5, 0.5], [2.0, 1.0, 0.0, 0.0]])  # fmt: skip
    shares = torch.tensor([1.0, 0.1, 0.5 * 0.25, 0.0, 0.0, 0.0, 0.5])
    torch.testing.assert_close(attention.share_inside(windows), shares)


def test_encoder_and_decoder():
    encoder, decoder = GlimpseEncoder(3, 6, (8, 5)).double(), GlimpseDecoder(4, 2, 6, (7,)).double()
    assert encoder.out_features == 5 and encoder(noise(2, 4, 3, 6, 6)).shape == (2, 4, 5)
    what = noise(2, 4, 4)
    assert decoder(what).shape == (2, 4, 2, 6, 6)
    decoder.bias[1] = 50.0
    assert bool((decoder(what)[:, :, 1] > 40).all() and (decoder(what)[:, :, 0] < 40).all())
    with pytest.raises(ValueError, match="at least one layer"):
        GlimpseEncoder(3, 6, ())


def test_mistakes_say_what_was_found():
    for call in (lambda w: read(noise(2, 1, 8, 8), w, 4), lambda w: write(noise(2, 1, 4, 4), w, (8, 8))):
        with pytest.raises(ValueError, match=r"\(width, height, x, y\).*found shape \(2, 3\)"):
            call(noise(2, 3))
        with pytest.raises(ValueError, match="do not broadcast"):
            call(noise(3, 4))
    with pytest.raises(ValueError, match=r"frames must have shape \(\*batch, C, H, W\), found \(8, 8\)"):
        read(noise(8, 8), noise(4), 4)
