"""What the GTM-SM refuses: states of other models, and actions of no world."""

import math
from dataclasses import replace

import pytest
import torch
from reverie.world_models import KVAE, KVAEConfig
from test_gtm_sm import SPACES, built, windows

VERBS = {
    "predict": lambda model, state, batch: model.predict(state, batch.actions[:, 0]),
    "felt": lambda model, state, batch: model.felt(state, torch.zeros_like(batch.actions[:, 0, :2])),
    "update": lambda model, state, batch: model.update(state, batch.frames[:, 0]),
    "update without a frame": lambda model, state, batch: model.update(state),
    "decode": lambda model, state, batch: model.decode(state),
    "features": lambda model, state, batch: model.features(state),
    "code": lambda model, state, batch: model.code(state),
    "remembered": lambda model, state, batch: model.remembered(state),
    "position": lambda model, state, batch: model.position(state),
    "placed": lambda model, state, batch: model.placed(state, torch.zeros(2, 2)),
    "locate": lambda model, state, batch: model.locate(state, batch.frames[:, 0]),
    "travel": lambda model, state, batch: model.travel(state, batch.actions),
    "imagine": lambda model, state, batch: model.imagine(state, batch.actions),
    "observe": lambda model, state, batch: model.observe(batch.frames, batch.actions, state=state),
}


@pytest.mark.parametrize("verb", VERBS)
def test_states_of_other_models_are_refused(verb):
    model, batch = built(), windows(2)
    others = [KVAE(KVAEConfig(network="mlp"), SPACES).initial_state((2,))]
    others += [built(**changes).initial_state((2,)) for changes in (
        {"z_dim": 5}, {"position_dim": 3, "transition": "rotation"}, {"position_dim": 3, "transition": "inertia"},
    )]  # fmt: skip
    for other in others:
        with pytest.raises(ValueError, match=r"the state given \(\w+State\) is of another model"):
            VERBS[verb](model, other, batch)
    VERBS[verb](model, model.initial_state((2,)), batch)
    turning = [built(position_dim=3, transition=name) for name in ("rotation", "inertia")]
    with pytest.raises(ValueError, match="motions of 6 numbers"):
        VERBS[verb](turning[1], turning[0].initial_state((2,)), batch)


ACTIONS = {
    "too wide": (lambda a: torch.cat([a, a[..., :1]], -1), ValueError, "of shape"),
    "too narrow": (lambda a: a[..., :4], ValueError, "of shape"),
    "no axis": (lambda a: a.argmax(-1), (ValueError, TypeError), "of shape|found torch.int64"),
    "another batch": (lambda a: a[:1], ValueError, "of shape"),
    "two at once": (lambda a: a.clamp(min=1.0), ValueError, "must be one-hot vectors of 5 numbers"),
    "none": (torch.zeros_like, ValueError, "must be one-hot"),
    "halves": (lambda a: 0.5 * a + 0.5 * a.roll(1, -1), ValueError, "must be one-hot"),
    "out of range": (lambda a: 2.0 * a, ValueError, "must be one-hot"),
    "negative": (lambda a: a + a.roll(1, -1) - a.roll(2, -1), ValueError, "must be one-hot"),
    "not finite": (lambda a: a * math.nan, ValueError, "must be one-hot|must be finite"),
    "another dtype": (lambda a: a.float(), TypeError, "must be torch.float64 as the model is, found torch.float32"),
}


@pytest.mark.parametrize("mistake", ACTIONS)
@pytest.mark.parametrize("verb", ["predict", "travel", "imagine"])
def test_actions_of_no_world_are_refused(verb, mistake):
    model, batch = built(), windows(2)
    state = model.initial_state((2,))
    change, error, message = ACTIONS[mistake]
    actions = batch.actions[:, 0] if verb == "predict" else batch.actions
    with pytest.raises(error, match=message):
        getattr(model, verb)(state, change(actions))
    getattr(model, verb)(state, actions)


def test_continuous_actions_need_only_be_finite():
    model = built(replace(SPACES, discrete_actions=False))
    state, action = model.initial_state((2,)), torch.full((2, 5), 0.3).double()
    model.predict(state, 3.0 * action)
    with pytest.raises(TypeError, match=r"must be torch.float64 as the model is, found ndarray"):
        model.predict(state, action.numpy())
    with pytest.raises(ValueError, match="actions must be finite"):
        model.predict(state, action * math.inf)


def test_actions_that_do_not_matter_may_be_anything():
    model, batch = built(), windows(2)
    first = batch.is_first | (torch.arange(9) == 4)
    valid = (torch.arange(9) < 7).expand(2, 9)
    expected = model.observe(batch.frames, batch.actions, is_first=first, valid=valid, sample=False)
    actions = torch.where((first | ~valid).unsqueeze(-1), math.nan, batch.actions)
    found = model.observe(batch.frames, actions, is_first=first, valid=valid, sample=False)
    for name, leaf in expected.tensors().items():
        assert torch.equal(leaf, found.tensors()[name]), name
    with pytest.raises(ValueError, match="one-hot"):
        model.observe(batch.frames, 2 * batch.actions, is_first=first, valid=valid)
    with pytest.raises(ValueError, match=r"is_first must have shape \(2, 9\), found \(2, 8\)"):
        model.observe(batch.frames, batch.actions, is_first=first[:, 1:])
