"""The experiment on gradient estimators in small: its exact twins, its claims, its files."""

import json
from dataclasses import replace

import pytest
import torch
from reverie.scripts.reproduce import discrete_gradients as experiment
from reverie.scripts.reproduce import discrete_methods as methods
from reverie.scripts.reproduce import discrete_toys as toys
from reverie.scripts.reproduce import discrete_vae as vae
from reverie.world_models.inference.choices import BinaryChoices
from reverie.world_models.training import seeded

SMALL = experiment.Args(
    seeds=(0, 1), draws=200, bit_iterations=3, bits_iterations=2, cosine_iterations=2, vae_iterations=2
)


def nothing(*args, **kwargs):
    pass


def test_the_exact_gradient_is_the_closed_form():
    logits = torch.tensor(toys.LOGITS, dtype=torch.float64)
    theta = logits.sigmoid()
    expected = theta * (1 - theta) * (1 - 2 * toys.targets(3, logits))
    torch.testing.assert_close(toys.exact_gradient(logits), expected)
    # with one sample the bound is log w = -f itself
    torch.testing.assert_close(toys.exact_gradient(logits, 1), -expected)


@pytest.mark.parametrize("name", [*methods.METHODS, *toys.MULTI])
def test_estimators_are_told_apart_by_their_bias(name):
    found = toys.three_bits(name, 0, 10_000, nothing)
    biased = name in (*methods.BIASED, "sqair-signal")
    assert (found[f"bias-errors/{name}"] > 5) == biased
    assert found[f"variance/{name}"] > 0


# Of E (b - t)^2 at theta = 1/2, in closed form: the gradient, and the variance of plain REINFORCE
ONE_BIT = {0.45: (0.025, 0.0159391), 0.499: (0.0005, 0.0156251)}


@pytest.mark.parametrize("t", toys.ONE_BIT)
@pytest.mark.parametrize("name", [*methods.METHODS, *toys.MULTI])
def test_one_bit_has_its_closed_forms(name, t):
    gradient, variance = ONE_BIT[t]
    exact = toys.exact_gradient(torch.zeros(1).double(), f=toys.one_square(t))
    assert float(exact) == pytest.approx(gradient, rel=1e-9)
    found = toys.one_bit_spread(name, t, 0, 20_000, nothing)
    assert set(found) == {f"{key}/one-bit/{t}/{name}" for key in ("bias", "bias-errors", "variance")}
    if name not in (*methods.BIASED, "sqair-signal"):
        assert found[f"bias-errors/one-bit/{t}/{name}"] < 4
    if name == "reinforce":
        assert found[f"variance/one-bit/{t}/{name}"] == pytest.approx(variance, rel=0.03)
    if name == "reinforce-optimal-constant":  # of one bit it leaves nothing
        assert found[f"variance/one-bit/{t}/{name}"] < 1e-3 * variance


def test_every_estimator_that_applies_learns_the_four_way_choice():
    best = float(torch.arange(1.0, 5.0).cos().min())
    for name in toys.COSINE_NAMES:
        found = toys.cosine(name, 0, 120, nothing)
        value = found[f"final-loss/cosine/{name}"]
        assert best - 1e-6 <= value <= 1
        if name in ("reinforce-optimal-constant", "muprop", "relax", "rebar", "nvil", "vimco"):
            assert value < best + 0.1, (name, value)
    assert {*methods.METHODS} - {"concrete"} < {*toys.COSINE_NAMES} and "vimco" in toys.COSINE_NAMES


@pytest.mark.parametrize("name", toys.MULTI)
def test_multi_sample_bounds_have_a_final_loss(name):
    found = toys.one_bit(name, 0.3, 0, 300, nothing)
    theta = found[f"theta/one-bit/0.3/{name}"]
    assert theta < 0.5
    assert found[f"final-loss/one-bit/0.3/{name}"] == pytest.approx(theta * 0.49 + (1 - theta) * 0.09, rel=1e-5)
    if name == "vimco":
        assert theta < 0.35
        assert toys.hundred_bits(name, 0, 150, nothing)[f"final-loss/hundred-bits/{name}"] < 12.0  # 25 at first


def test_better_baselines_have_less_variance():
    names = ("reinforce", "reinforce-moving-average", "reinforce-optimal-constant", "muprop")
    spread = [toys.three_bits(name, 0, 5000, nothing)[f"variance/{name}"] for name in names]
    assert spread == sorted(spread, reverse=True)


def test_one_bit_learns_the_published_toy():
    found = toys.one_bit("reinforce-optimal-constant", 0.3, 0, 300, nothing)
    theta = found["theta/one-bit/0.3/reinforce-optimal-constant"]
    assert theta < 0.3
    expected = theta * 0.49 + (1 - theta) * 0.09
    assert found["final-loss/one-bit/0.3/reinforce-optimal-constant"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", vae.NAMES)
def test_every_estimator_trains_the_vae(name):
    data = vae.Data(*(part[:60] for part in vae.load()))
    model = vae.DiscreteVAE(400, data.train.mean(0), 0)
    method = methods.build(name, vae.NUM_BITS, 400, 0) if name in methods.METHODS else None
    logits = model.encoder(data.train)
    loss, own, grow = vae.objective(name, model, method, data.train, logits, seeded(0, 0, 0))
    grow()
    assert loss.shape == (60,)
    gradients = torch.autograd.grad(loss.mean(), list(model.parameters()), retain_graph=True)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    if own is not None:
        (own_gradient, *_) = torch.autograd.grad(own, [next(method.parameters())], allow_unused=True)
        assert own_gradient is not None


def test_the_weights_of_the_vae_are_its_joint_density(monkeypatch):
    monkeypatch.setattr(vae, "NUM_BITS", 3)
    model = vae.DiscreteVAE(5, torch.full((5,), 0.2), 0).requires_grad_(False)
    model.prior.copy_(torch.tensor([0.3, -1.0, 0.5]))
    x = (torch.rand(4, 5, generator=seeded(0, 0, 0)) < 0.5).float()
    bits = toys.all_bits(3).float().unsqueeze(1).expand(8, 4, 3)
    choices = BinaryChoices(model.encoder(x).expand(8, 4, 3), bits, bits, bits)
    found = model.log_weights(bits, choices.log_prob, x.expand(8, 4, 5)) + choices.log_prob
    prior = torch.distributions.Bernoulli(logits=model.prior).log_prob(bits).sum(-1)
    pixels = torch.distributions.Bernoulli(logits=model.decoder(2 * bits - 1)).log_prob(x.expand(8, 4, 5)).sum(-1)
    torch.testing.assert_close(found, prior + pixels)
    torch.testing.assert_close(choices.log_prob.logsumexp(0), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["nvil", "reinforce"])
def test_the_estimate_for_the_vae_is_the_gradient_of_its_bound(name, monkeypatch):
    """Meaned over all draws; NVIL's is shorter by one factor, whatever it has seen before."""
    monkeypatch.setattr(vae, "NUM_BITS", 3)
    model = vae.DiscreteVAE(400, torch.full((400,), 0.2), 0).requires_grad_(False)
    method = methods.build(name, 3, 400, 0)
    x = (torch.rand(1, 400, generator=seeded(0, 0, 0)) < 0.5).float()
    bits = toys.all_bits(3).float()

    def expected_gradient() -> torch.Tensor:
        logits = torch.tensor([[0.4, -0.7, 1.1]], requires_grad=True)
        mean = torch.zeros(())
        for b in bits:
            choices = BinaryChoices(logits, b[None], b[None], b[None])
            monkeypatch.setattr(vae.ch, "choose_binary", lambda *_, choices=choices, **__: choices)
            mean = mean + choices.log_prob.detach().exp() @ vae.objective(name, model, method, x, logits, None)[0]
        return torch.autograd.grad(mean, logits)[0]

    logits = torch.tensor([[0.4, -0.7, 1.1]], requires_grad=True)
    log_q = BinaryChoices(logits.expand(8, 3), bits, bits, bits).log_prob
    bound = (log_q.exp() * model.log_weights(bits, log_q, x.expand(8, 400))).sum()
    (exact,) = torch.autograd.grad(-bound, logits)
    for b in bits.repeat(20, 1):  # so that it knows the spread
        choices = BinaryChoices(logits, b[None], b[None], b[None])
        monkeypatch.setattr(vae.ch, "choose_binary", lambda *_, choices=choices, **__: choices)
        vae.objective(name, model, method, x, logits, None)[2]()
    ratio = expected_gradient() / exact
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)
    assert float(ratio.mean()) < 0.9 if name == "nvil" else float(ratio.mean()) == pytest.approx(1.0, rel=1e-3)


def test_the_experiment_keeps_its_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "WARM_UP", 2)
    args = replace(SMALL, out=tmp_path / "out", json=tmp_path / "r.json", stages=("toys",))
    experiment.main(args)
    result = json.loads(args.json.read_text())
    for name in (*methods.METHODS, *toys.MULTI):
        for key in (
            "bias", "variance", "final-loss/hundred-bits", "theta/one-bit/0.499", "variance/one-bit/0.45",
        ):  # fmt: skip
            assert len(result["metrics"][f"{key}/{name}"]["values"]) == 2
    assert result["references"]["public code"]["theta/one-bit/0.499/rebar"] == 0.252
    kept = args.out / "toys" / "three-bits-rebar-0.json"
    before = kept.read_text()
    experiment.main(args)
    assert kept.read_text() == before
    with pytest.raises(ValueError, match=r"other settings \(draws\); choose another --out"):
        experiment.main(replace(args, draws=100))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="--draws must be at least 2, found 1"):
        experiment.Args(draws=1)
    with pytest.raises(ValueError, match="--seeds needs at least one value"):
        experiment.Args(seeds=())
    with pytest.raises(ValueError, match="--vae-iterations must be at least 1, found 0"):
        experiment.Args(vae_iterations=0)
