"""Training by particle bounds, and by one bound for the model and another for its proposal."""

from dataclasses import replace

import pytest
import torch
from own_world_model import OwnConfig, OwnModel
from reverie.world_models import LGSSM, VRNN, Batch, Spaces, VRNNConfig
from reverie.world_models.bounds import Bound
from reverie.world_models.capabilities import PredictsReward, Proposes
from reverie.world_models.training import TrainingConfig, TrainingDiverged, fit
from reverie.world_models.training_bounds import Objective, parts_of
from test_bounds import make_batch, make_model, seed
from test_sequential import MODELS, build, srnn
from test_sequential import windows as sequences
from tiny_training import lgssm, windows
from world_model_contract import CASES, GAUSSIAN


class Parted(OwnModel):
    """Tells its parameters apart; its emission counts as shared."""

    def parameter_groups(self, progress):
        parts = {
            "generative": [*self.transition.parameters()],
            "proposal": [*self.encoder.parameters(), self.encoder_log_std],
            "shared": [*self.decoder.parameters(), self.frame_log_std],
        }
        return [{"name": p, "part": p, "params": params, "lr_factor": 1.0} for p, params in parts.items()]


def parted():
    torch.manual_seed(0)
    return Parted(OwnConfig(), Spaces((2,), 1))


DATA = windows(8, image=False)
WINDOWS = Batch.from_numpy(DATA[slice(None)], Spaces((2,), 1))


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    return {name: torch.zeros(()) if g is None else g for name, g in zip(names, found, strict=True)}


@pytest.mark.parametrize("first", ["elbo", "iwae-7", "fivo-7"])
def test_each_part_climbs_its_own_bound(first):
    model, bounds = parted(), (Bound.parse(first), Bound.parse("iwae-2"))
    objective, generator = Objective(model, *bounds), seed(0)
    loss = objective(WINDOWS, generator=seed(0))
    apart = [gradients(-b(model, WINDOWS, generator=generator).sum() / WINDOWS.observed.sum(), model) for b in bounds]
    together = gradients(loss.total, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for part, parameters in parts_of(model).items():
        for name in (names[id(parameter)] for parameter in parameters):
            expected = {
                "generative": apart[0][name],
                "proposal": apart[1][name],
                "shared": apart[0][name] + apart[1][name],
            }
            torch.testing.assert_close(together[name], expected[part], msg=lambda text, name=name: f"{name}: {text}")
    different = [name for name in names.values() if not torch.allclose(apart[0][name], apart[1][name], rtol=1e-2)]
    assert len(different) >= 4
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "proposal iwae-2" in loss.terms and loss.elbo.shape == WINDOWS.rewards.shape


def test_one_bound_is_its_gradient_and_its_steps_add_up():
    model, batch = make_model("prior").requires_grad_(), make_batch(flags=True)
    batch = replace(batch, rewards=torch.ones_like(batch.rewards))
    for bound in (Bound("iwae", 4), Bound("fivo", 4, gradient="kept", threshold=0.7)):
        steps = bound.per_step(model, batch, generator=seed(0))
        torch.testing.assert_close(steps.sum(-1), bound(model, batch, generator=seed(0)))
        assert bool((steps[~batch.valid] == 0).all())
        loss = Objective(model, bound)(batch, generator=seed(0))
        torch.testing.assert_close(loss.elbo, steps)
        wanted = gradients(-steps.sum() / batch.observed.sum(), model)
        found = gradients(loss.total, model)
        heads = gradients(model.loss(batch).total, model)
        for name in wanted:  # heads learn as ever, beside the bound
            of_a_head = name.startswith(("reward", "continue", "state_cost", "action_cost"))
            torch.testing.assert_close(found[name], heads[name] if of_a_head else wanted[name])
        assert float(heads["reward_weight"].abs().sum()) > 0


READERS = {
    "srnn": MODELS["srnn"],
    "srnn without residual": lambda: srnn(residual=False),
    "srnn that reads frames": lambda: srnn(inputs="both", inference="filtering"),
    "vrnn": MODELS["vrnn"],
    "vrnn with two encoders": lambda: build(VRNN, VRNNConfig(**GAUSSIAN, h_dim=3, features="separate")),
    "storn": MODELS["storn"],
    "dvbf": MODELS["dvbf"],
    "rssm": MODELS["rssm"],
    "vae-rnn": MODELS["vae-rnn"],
    "dmm": MODELS["dmm"],
}


@pytest.mark.parametrize("name", READERS)
def test_what_the_posterior_reads_of_the_generative_model_is_shared(name):
    """q(z_t | z_{<t}, x, u), earlier draws held fixed, has a gradient in no part but the proposal's and the shared."""
    model, batch = READERS[name](), sequences()
    settle = model.settle
    model.settle = lambda state, summary, known: settle(replace(state, z=state.z.detach()), summary, known)
    context = model.encode_context(batch.frames, batch.actions, None, None)
    predicted, total = model.initial_state((3,)), 0.0
    for t in range(5):
        state = model.propose(predicted, batch.frames[:, t], context.index(t), generator=seed(t)).state
        total = total + state.mean.sum() + state.std.log().sum()
        predicted = model.predict(state, batch.actions[:, min(t + 1, 4)])
    total.backward()
    read = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert read == {*model.proposal_modules, *model.shared_modules}


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].name in ("apdr", "air")])
def test_what_the_posterior_of_objects_reads_is_shared(case):
    """Choices and draws of a frame, scenes before it held fixed."""
    model, batch, total, predicted = case.build(), case.batch(20), 0.0, None
    for t in range(4):
        predicted = model.initial_state((20,)) if t == 0 else model.predict(predicted, batch.actions[:, t])
        found = model.propose(predicted, batch.frames[:, t], None, generator=seed(t))
        scene = found.state
        drawn = sum((scene.presence.unsqueeze(-1) * leaf).sum() for leaf in (scene.what, scene.place))
        total = total + drawn + torch.as_tensor(found.log_q_discrete).sum() + scene.presence.sum()
        predicted = scene.detach()
    total.backward()
    read = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    part = {id(p): group["part"] for group in model.parameter_groups(1.0) for p in group["params"]}
    parts = {name: part[id(p)] for name, p in model.named_parameters()}
    assert not [name for name in read if parts[name] == "generative"]
    shared = {name.split(".")[0] for name in parts if parts[name] == "shared"}
    assert shared and shared <= {name.split(".")[0] for name in read}


def each_climbs_its_own(model, batch, bounds):
    """Assert it of the parts of a model, and that everything climbs the heads' likelihood once; return the gradient."""
    generator = seed(0)
    apart = [gradients(-bounds[0](model, batch, generator=generator).sum() / batch.observed.sum(), model)]
    heads = dict.fromkeys(apart[0], 0.0)
    if isinstance(model, PredictsReward):
        terms = model.loss(batch, generator=generator).terms
        likelihood = sum(terms[name].sum() for name in ("reward", "continue") if name in terms)
        heads = gradients(-likelihood / batch.valid.sum(), model)
    apart.append(gradients(-bounds[1](model, batch, generator=generator).sum() / batch.observed.sum(), model))
    together = gradients(Objective(model, *bounds)(batch, generator=seed(0)).total, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for part, parameters in parts_of(model).items():
        for key in (names[id(parameter)] for parameter in parameters):
            climbed = {"generative": apart[:1], "proposal": apart[1:], "shared": apart}[part]
            expected = heads[key] + sum(gradient[key] for gradient in climbed)
            torch.testing.assert_close(together[key], expected, msg=lambda text, key=key: f"{key}: {text}")
    return together


@pytest.mark.parametrize("case", CASES)
def test_each_part_of_every_model_climbs_its_own_bound(case):
    model, batch = case.build(), case.batch(3)
    if not (isinstance(model, Proposes) and parts_of(model)["proposal"]):
        pytest.skip("its parameters name no proposal")
    found = each_climbs_its_own(model, batch, (Bound.parse("fivo-3"), Bound.parse("iwae-2")))
    assert any(bool(gradient.any()) for gradient in found.values())


@pytest.mark.parametrize("first", ["fivo-3", "elbo"])
@pytest.mark.parametrize("name", ["rssm", "srnn"])
def test_heads_shape_the_proposal_once(name, first):
    """With two bounds, too: each part climbs its own, and everything the heads' likelihood, once."""
    model, batch, bounds = MODELS[name](), sequences(), (Bound.parse(first), Bound.parse("iwae-2"))
    batch = replace(batch, rewards=torch.randn(batch.rewards.shape, generator=seed(3), dtype=torch.float64))
    together = each_climbs_its_own(model, batch, bounds)
    loss = Objective(model, *bounds)(batch, generator=seed(0))
    assert {"reward", "continue", "proposal iwae-2"} <= loss.terms.keys()
    other = Objective(model, *bounds)(replace(batch, rewards=-batch.rewards), generator=seed(0))
    moved = [not torch.equal(together[key], g) for key, g in gradients(other.total, model).items() if "encoder" in key]
    assert all(moved) if name == "rssm" else not any(moved)


def test_fit_maximises_the_bound_and_logs_it():
    model = parted()
    config = TrainingConfig(
        epochs=40, batch_size=8, learning_rate=3e-2, bound="fivo-8", proposal_bound="iwae-2", resampling_threshold=0.5
    )
    history = fit(model, DATA, config)
    assert history[-1]["fivo-8_per_frame"] > history[0]["fivo-8_per_frame"] + 0.3
    assert history[-1]["proposal iwae-2_per_frame"] > history[0]["proposal iwae-2_per_frame"] + 0.3
    assert history[-1]["elbo_per_frame"] == history[-1]["fivo-8_per_frame"]


def test_validation_looks_at_the_bound_that_is_trained(tmp_path):
    model, config = parted(), TrainingConfig(epochs=1, batch_size=8, bound="fivo-200", validate_epochs=1)
    looked = fit(model, DATA, config, validation=DATA, out=tmp_path)[-1]["validation_elbo_per_frame"]
    fivo, own = (
        float(Bound.parse(name)(model, WINDOWS, generator=seed(0)).detach().sum() / WINDOWS.valid.sum())
        for name in ("fivo-200", "elbo")
    )
    assert abs(looked - fivo) < 0.1 * abs(fivo - own)


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    config = TrainingConfig(epochs=3, batch_size=4, save_minutes=0.0, bound="fivo-3", proposal_bound="iwae-2")
    whole, first, second = parted(), parted(), parted()
    for model in (whole, first, second):
        model.name = "own"
    fit(whole, DATA, config)
    fit(first, DATA, config, out=tmp_path, stop_after=3)
    fit(second, DATA, config, out=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    with pytest.raises(ValueError, match="other settings"):
        fit(parted(), DATA, replace(config, bound="fivo-4"), out=tmp_path, resume=True)


def test_all_particles_dead_stops_training_by_name():
    class Dead(LGSSM):
        def propose(self, *args, **kwargs):
            proposal = super().propose(*args, **kwargs)
            return replace(proposal, log_weight=proposal.log_weight - torch.inf)

    model = lgssm()
    model.__class__ = Dead
    with pytest.raises(TrainingDiverged, match=r"step 0 .*\['fivo-3'\]"):
        fit(model, DATA, TrainingConfig(epochs=1, batch_size=4, bound="fivo-3"))


def test_a_gradient_that_memory_cannot_hold(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    config = TrainingConfig(epochs=1, batch_size=4, bound="fivo-3", proposal_bound="iwae-2")
    message = "fivo-3 and iwae-2 for 4 windows of 6 steps do not fit .* use fewer particles or a smaller batch_size"
    with pytest.raises(ValueError, match=message):
        fit(parted(), DATA, config)


def test_what_cannot_be_trained_so_is_told():
    with pytest.raises(ValueError, match="a bound is written elbo, iwae-K or fivo-K"):
        TrainingConfig(bound="smc-3")
    with pytest.raises(ValueError, match="a bound is written elbo"):
        TrainingConfig(proposal_bound="10")
    with pytest.raises(
        ValueError, match=r"needs a model whose parameter_groups have one of part 'proposal'; those of LGSSM"
    ):
        fit(lgssm(), DATA, TrainingConfig(bound="fivo-3", proposal_bound="iwae-3"))
    model = parted()
    model.parameter_groups = lambda progress: [{"name": "all", "part": "encoder", "params": [], "lr_factor": 1.0}]
    with pytest.raises(ValueError, match="parameter group 'all' of Parted has part 'encoder'"):
        Objective(model, Bound("iwae", 2))
    with pytest.raises(TypeError, match="the bound iwae-2 needs a model with `propose`, found Linear"):
        Objective(torch.nn.Linear(1, 1), Bound("iwae", 2))
