"""Composing pictures: who hides whom, what adds up, how much of each object is to be seen."""

import pytest
import torch
from reverie.world_models import APDRConfig, Spaces
from reverie.world_models.objects.attention import boxes_of, where_of
from reverie.world_models.objects.rendering import Renderer

CONFIG = APDRConfig(what_dim=4, glimpse_size=6, glimpse_hidden=(5,))
SPACES = Spaces((3, 16, 16), 1)


@pytest.fixture
def renderer():
    """Every object is a full square; what = (red, green, blue, depth)."""
    return plain(CONFIG)


def plain(config):
    renderer = Renderer(config, SPACES).double()
    decoder = renderer.decoder

    def forward(what):
        colours = 60 * (what[..., :3] - 0.5)
        full = torch.full_like(colours[..., :1], 60.0)
        return torch.cat([colours, full], -1)[..., None, None].expand(*what.shape[:-1], 4, 6, 6)

    decoder.forward = forward
    if renderer.depth is not None:
        renderer.depth.weight.data = torch.tensor([[0.0, 0.0, 0.0, 1.0]]).double()
        renderer.depth.bias.data.zero_()
    return renderer


def place(*windows):
    return where_of(torch.tensor(windows, dtype=torch.float64), CONFIG.smallest, CONFIG.largest)


RED, BLUE = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]
HERE = (0.375, 0.375, 0.125, 0.125)  # pixels 6 to 12
PLACES = place(HERE, (0.375, 0.375, 0.375, 0.125))  # and 8 to 14
BOTH = torch.ones(2, dtype=torch.float64)


def things(*whats):
    return torch.tensor(whats, dtype=torch.float64)


def test_one_object_is_drawn_as_it_is(renderer):
    picture = renderer(BOTH[:1], things(RED), PLACES[:1]).mean
    expected = torch.zeros(3, 16, 16).double()
    expected[0, 6:12, 6:12] = 1
    torch.testing.assert_close(picture, expected, atol=1e-3, rtol=0.0)
    nothing = renderer(torch.zeros(1).double(), things(RED), PLACES[:1]).mean
    torch.testing.assert_close(nothing, renderer.background)


def test_the_nearer_one_hides_the_other_in_any_order(renderer):
    whats = things([*RED[:3], 20.0], [*BLUE[:3], -20.0])
    picture = renderer(BOTH, whats, PLACES).mean
    assert bool((picture[0, 6:12, 6:12] > 0.99).all() and (picture[2, 6:12, 6:12] < 0.01).all())
    assert bool((picture[2, 6:12, 12:14] > 0.99).all())
    torch.testing.assert_close(renderer(BOTH, whats.flip(0), PLACES.flip(0)).mean, picture)
    equal = renderer(BOTH, things(RED, BLUE), PLACES).mean[:, 8, 10]
    torch.testing.assert_close(equal, torch.tensor([0.5, 0.0, 0.5]).double(), atol=1e-3, rtol=0.0)


def test_light_adds_up():
    adding = plain(APDRConfig(what_dim=4, glimpse_size=6, glimpse_hidden=(5,), rendering="add", background="black"))
    picture = adding(BOTH, things(RED, RED), PLACES).mean
    torch.testing.assert_close(picture[0, 8, [7, 10, 13, 15]], torch.tensor([1.0, 2.0, 1.0, 0.0]).double())
    assert not bool(adding.background.any())


def test_visibility_is_the_share_that_shows(renderer):
    whats = things([*RED[:3], 20.0], [*BLUE[:3], -20.0])
    found = renderer.visibility(BOTH, whats, PLACES)
    torch.testing.assert_close(found, torch.tensor([1.0, 2 / 6]).double(), atol=0.01, rtol=0.0)
    alone = renderer.visibility(torch.tensor([0.0, 1.0]).double(), whats, PLACES)
    torch.testing.assert_close(alone, torch.tensor([0.0, 1.0]).double(), atol=0.01, rtol=0.0)
    edge = place((0.375, 0.375, 1.0, 0.0), (0.375, 0.375, 3.0, 0.0))
    torch.testing.assert_close(
        renderer.visibility(BOTH, whats, edge), torch.tensor([0.5, 0.0]).double(), atol=0.05, rtol=0.0
    )


def test_outlines_go_around_what_is_opaque(renderer):
    opacity = torch.full((1, 6, 6), -9.0).double()
    opacity[0, 1:3, 2:6] = 9.0  # rows 1 to 3 and columns 2 to 6 of the window's 6
    forward = renderer.decoder.forward
    renderer.decoder.forward = lambda what: torch.cat([forward(what)[..., :3, :, :], opacity.expand(2, 1, 6, 6)], -3)
    found = boxes_of(renderer.outlines(things(RED, BLUE), PLACES), (16, 16))
    expected = torch.tensor([[8.0, 7.0, 12.0, 9.0], [10.0, 7.0, 14.0, 9.0]]).double()
    torch.testing.assert_close(found, expected)
    opacity.fill_(-9.0)
    torch.testing.assert_close(
        boxes_of(renderer.outlines(things(RED, BLUE), PLACES), (16, 16))[0], torch.tensor([6.0, 6, 12, 12]).double()
    )


def test_the_background_is_learned(renderer):
    renderer.image.data.fill_(0.25)
    picture = renderer(BOTH[:1], things(RED), PLACES[:1]).mean
    torch.testing.assert_close(picture[:, 0, 0], torch.full((3,), 0.25).double())
