"""Imputation: masks, what is counted, and equality with a loop over sequences."""

import numpy as np
import pytest
import torch
from evaluation_worlds import IMAGE_SPACES, draw_windows, moving_square, spring
from reverie.world_models import KVAE, Batch, KVAEConfig
from reverie.world_models import evaluation as ev


@pytest.fixture(scope="module")
def kvae():
    torch.manual_seed(0)
    return KVAE(KVAEConfig(network="mlp", hidden=(8,), dynamics_units=5), IMAGE_SPACES).eval()


def test_masks_are_the_papers():
    consecutive = ev.consecutive_masks(20)
    assert list(consecutive) == ["1", "3", "5", "7", "9", "11", "13", "15"]
    assert (~consecutive["11"]).nonzero().squeeze(-1).tolist() == list(range(4, 15))
    random = ev.random_masks(20, np.random.default_rng(0))
    assert list(random) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    for mask in (*consecutive.values(), *random.values()):
        assert mask.shape == (20,) and mask[:4].all() and not mask.all()
    assert not random["1.0"][4:].any()
    assert not torch.equal(random["0.4"], random["0.5"])


def test_random_masks_hide_the_share_that_was_asked_for():
    masks = ev.per_sequence_masks(20, 5000, np.random.default_rng(0), (0.3, 0.8))
    for p, mask in masks.items():
        assert mask.shape == (5000, 20) and mask[:, :4].all()
        assert 1 - mask[:, 4:].float().mean().item() == pytest.approx(float(p), abs=0.01)


def test_a_mask_that_hides_nothing_is_drawn_again():
    for seed in range(50):
        assert not ev.random_masks(6, np.random.default_rng(seed), (0.1,))["0.1"].all()


@pytest.mark.parametrize("shared", [True, False])
def test_impute_equals_a_loop_over_sequences(kvae, shared):
    data, rng = moving_square(5, 10), np.random.default_rng(0)
    masks = ev.random_masks(10, rng, (0.5,)) if shared else ev.per_sequence_masks(10, 5, rng, (0.5,))
    found = ev.impute(kvae, data, masks, chunk=2)
    mask = masks["0.5"].expand(5, 10)
    frames = torch.as_tensor(data.arrays["frames"]).movedim(-1, 2).float() / 255
    actions = torch.as_tensor(data.arrays["actions"])
    wrong = {method: [] for method in ("smooth", "filter", "generate")}
    with torch.no_grad():
        for n in range(5):
            start = kvae.observe(frames[n, :4], actions[n, :4], sample=False).index(-1)
            guesses = {
                "smooth": kvae.decode(kvae.smooth(frames[n], actions[n], mask=mask[n], sample=False)).mean,
                "filter": kvae.decode(kvae.observe(frames[n], actions[n], mask=mask[n], sample=False)).mean,
                "generate": torch.cat(
                    [frames[n, :4], kvae.decode(kvae.imagine(start, actions[n, 4:], sample=False)).mean]
                ),
            }
            for method, guess in guesses.items():
                wrong[method] += [
                    ((guess[t] > 0.5) != (frames[n, t] > 0.5)).float().mean() for t in range(10) if not mask[n, t]
                ]
    for method, errors in wrong.items():
        assert found[f"{method}/0.5"] == pytest.approx(torch.stack(errors).mean().item(), abs=1e-6)


def test_hidden_frames_have_no_influence_and_shown_ones_do_not_count(kvae):
    data, masks = moving_square(4, 10), ev.consecutive_masks(10, (3,))
    before = ev.impute(kvae, data, masks, error=lambda truth, guess, rank: guess.flatten(-rank).sum(-1))
    data.arrays["frames"][:, 4:7] = 255 - data.arrays["frames"][:, 4:7]
    assert before == ev.impute(kvae, data, masks, error=lambda truth, guess, rank: guess.flatten(-rank).sum(-1))
    shown = ev.impute(
        kvae, data, masks, methods=("smooth",), error=lambda truth, guess, rank: truth.flatten(-3).sum(-1)
    )
    assert shown["smooth/3"] == pytest.approx(60)  # the inverted frames: 64 pixels less the square's 4


def test_smoothing_fills_in_better_than_filtering_and_filtering_than_generating():
    model = spring()
    data = draw_windows(model, 400, 20)
    found = ev.impute(model, data, ev.random_masks(20, np.random.default_rng(3), (0.6,)), error=ev.mse)
    assert found["smooth/0.6"] < 0.8 * found["filter/0.6"] < 0.8 * found["generate/0.6"]
    batch = Batch.from_numpy(data[np.arange(400)], model.spaces).to(torch.float64)
    assert found["generate/0.6"] < batch.frames.var().item()


def test_sampled_imputation_draws_and_repeats_with_its_seed(kvae):
    data, masks = moving_square(4, 10), ev.consecutive_masks(10, (5,))

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return ev.impute(kvae, data, masks, sample=True, error=ev.mse, generator=generator)

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_still_baseline_is_the_largest_distance_between_early_and_late_frames():
    frames = torch.as_tensor(moving_square(70, 20).arrays["frames"]).movedim(-1, 2).float() / 255
    expected = [
        max((frames[n, i] != frames[n, j]).float().mean().item() for i in (0, 3, 6) for j in (9, 12, 15))
        for n in (0, 32)  # the third group, 64 ... 69, is incomplete
    ]
    assert ev.still_baseline(frames) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(10, dtype=torch.bool), "hides no frame"),
        (torch.zeros(9, dtype=torch.bool), r"shape \(10,\) or \(4, 10\), found torch.bool \(9,\)"),
        (torch.zeros(10), "found torch.float32"),
        (torch.zeros(10, dtype=torch.bool), "hides some of the first 4 frames"),
    ],
)
def test_masks_that_do_not_fit_are_named(kvae, mask, message):
    with pytest.raises(ValueError, match=message):
        ev.impute(kvae, moving_square(4, 10), {"odd": mask})


def test_too_many_consecutive_frames_are_refused():
    with pytest.raises(ValueError, match="17 consecutive frames from frame 4 on do not fit into 20"):
        ev.consecutive_masks(20, (17,))
