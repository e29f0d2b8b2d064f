"""Encoders and decoders of frames, against the plain way of computing the same."""

import pytest
import torch
from reverie.world_models.networks import SubpixelDecoder, depth_to_space
from torch.nn import functional


def test_depth_to_space_puts_each_group_of_channels_on_its_sub_pixel():
    x = torch.randn(2, 12, 3, 5)
    y = depth_to_space(x)
    for index in range(4):
        row, column = divmod(index, 2)
        assert torch.equal(y[:, :, row::2, column::2], x[:, 3 * index : 3 * index + 3])


@pytest.mark.parametrize("colours", [1, 3])
def test_the_papers_decoder_is_convolution_relu_shuffle_and_a_1x1_convolution(colours):
    decoder = SubpixelDecoder(2, (colours, 16, 16), (8, 6, 5), narrow_output=False)
    code = torch.randn(7, 2)
    x = decoder.linear(code).reshape(-1, *decoder.start)
    for stage in decoder.stages:
        x = depth_to_space(functional.relu(stage(x)))
    torch.testing.assert_close(decoder(code), decoder.output(x))
