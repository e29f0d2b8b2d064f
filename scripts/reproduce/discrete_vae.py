"""The discrete VAE of `reverie reproduce discrete-gradients`: real digits through a layer of Bernoulli variables.

    b ~ Bernoulli(prior)^D        x ~ Bernoulli(decoder(b))        q(b | x) = Bernoulli(encoder(x))

x are the project's 20x20 MNIST digits, made binary at half brightness: 4,000 to learn from, 1,000 others to measure.
Every estimator gets the same networks, data order and optimiser, and f(b) = -log p(x | b) beside the KL in closed form.
Some differ: `concrete-density` learns the relaxed bound of the Concrete paper, whose KL is that of the relaxed
variables, `vimco` the bound with K samples, and NVIL divides what it learns from by its spread, so that all of the
bound must be in it: f(b) = -log p(x, b) + log q(b | x). What is reported is the same for all, with discrete b; only the
variance of NVIL's shorter gradient does not compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from reverie.envs.pictures import digits
from reverie.world_models.inference import choices as ch
from reverie.world_models.inference import discrete
from reverie.world_models.networks import mlp
from reverie.world_models.training import seeded
from torch import Tensor, nn
from torch.nn import functional

from .discrete_methods import METHODS, TEMPERATURE, Method, build

NUM_BITS, HIDDEN, SAMPLES = 64, 128, 5
RATE, OWN_RATE, BATCH = 1e-3, 1e-3, 50
BOUND_SAMPLES, VARIANCE_DRAWS, VARIANCE_IMAGES = 100, 20, 200
NAMES = (*METHODS, "concrete-density", "vimco")
NORMALISED = ("nvil", "nvil-variance")


class DiscreteVAE(nn.Module):
    """Encoder, decoder and prior of the header."""

    def __init__(self, num_pixels: int, mean: Tensor, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = mlp([num_pixels, HIDDEN, NUM_BITS], nn.Tanh)
            self.decoder = mlp([NUM_BITS, HIDDEN, num_pixels], nn.Tanh)
        self.prior = nn.Parameter(torch.zeros(NUM_BITS))
        with torch.no_grad():
            self.decoder[-1].bias.copy_(torch.logit(mean.clamp(0.01, 0.99)))

    def log_likelihood(self, b: Tensor, x: Tensor) -> Tensor:
        """log p(x | b), (*batch) nats; the decoder reads -1 and 1."""
        logits = self.decoder(2 * b - 1)
        return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def kl(self, logits: Tensor) -> Tensor:
        """KL(q(b | x) || p(b)), (*batch) nats."""
        return ch.binary_kl(logits, self.prior).sum(-1)

    def log_weights(self, b: Tensor, log_prob: Tensor, x: Tensor) -> Tensor:
        """log p(x, b) - log q(b | x), (*batch) nats, of which the latter is `log_prob`."""
        log_prior = -functional.softplus((1 - 2 * b) * self.prior).sum(-1)
        return self.log_likelihood(b, x) + log_prior - log_prob


class Data(NamedTuple):
    """Binary pictures (N, pixels)."""

    train: Tensor
    test: Tensor


def load() -> Data:
    parts = [torch.from_numpy(digits(split)[0].copy()).flatten(1) for split in ("train", "test")]
    return Data(*((part > 127).float() for part in parts))


def objective(
    name: str, vae: DiscreteVAE, method: Method | None, x: Tensor, logits: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
    """What is minimised, (*batch); the estimator's own loss; and what it does to remember the draw."""
    if name == "vimco":
        many = ch.choose_binary(logits.unsqueeze(-2).expand(*logits.shape[:-1], SAMPLES, -1), generator=generator)
        weights = vae.log_weights(many.hard, many.log_prob, x.unsqueeze(-2))
        return -discrete.vimco(weights, many.log_prob), None, lambda: None
    choices = ch.choose_binary(logits, generator=generator)
    if name == "concrete-density":
        y = choices.z / TEMPERATURE
        log_q = ch.binary_concrete_log_prob(y, logits, TEMPERATURE)
        kl = (log_q - ch.binary_concrete_log_prob(y, vae.prior, TEMPERATURE)).sum(-1)
        return kl - vae.log_likelihood(y.sigmoid(), x), None, lambda: None
    assert method is not None
    if name in NORMALISED:
        found = method(lambda b: -vae.log_weights(b, choices.log_prob.detach(), x), choices, x)
        return found.surrogate, found.own_loss, found.grow
    found = method(lambda b: -vae.log_likelihood(b, x), choices, x)
    return found.surrogate + vae.kl(logits), found.own_loss, found.grow


def train(name: str, seed: int, iterations: int, advance: Callable[..., None]) -> dict[str, float]:
    """Learn, then measure on the test digits: losses in nats per digit, variance of the encoder's gradient, cost."""
    data = load()
    vae = DiscreteVAE(data.train.shape[1], data.train.mean(0), seed)
    method = build(name, NUM_BITS, data.train.shape[1], seed) if name in METHODS else None
    own = [parameter for parameter in method.parameters() if parameter.requires_grad] if method else []
    model = list(vae.parameters())
    optimiser = torch.optim.Adam(model, lr=RATE)
    own_optimiser = torch.optim.Adam(own, lr=OWN_RATE) if own else None
    seconds = []
    for i in range(iterations):
        generator = seeded(seed, 5, i)
        x = data.train[torch.randint(len(data.train), (BATCH,), generator=generator)]
        start = time.process_time()
        loss, own_loss, grow = objective(name, vae, method, x, vae.encoder(x), generator)
        if own_optimiser is not None and own_loss is not None:
            _step(own_optimiser, own, own_loss, retain=True)
        _step(optimiser, model, loss.mean())
        grow()
        seconds.append(time.process_time() - start)
        advance(1)
    found = evaluate(vae, data.test, seeded(seed, 6, 0))
    found["variance/vae"] = gradient_variance(name, vae, method, data.test[:VARIANCE_IMAGES], seeded(seed, 7, 0))
    found["cost/vae"] = 1e3 * float(torch.tensor(seconds).median())
    return {f"{key}/{name}": value for key, value in found.items()}


def _step(
    optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor, *, retain: bool = False
) -> None:
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=retain)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


@torch.no_grad()
def evaluate(vae: DiscreteVAE, x: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Minus the ELBO, and minus the bound with 100 samples, of discrete b."""
    choices = ch.choose_binary(vae.encoder(x).expand(BOUND_SAMPLES, -1, -1), generator=generator)
    weights = vae.log_weights(choices.hard, choices.log_prob, x).transpose(0, 1)
    return {
        "final-loss/vae": float(-weights.mean()),
        f"final-loss/vae-bound-{BOUND_SAMPLES}": float(-discrete.log_mean_exp(weights).mean()),
    }


def gradient_variance(
    name: str, vae: DiscreteVAE, method: Method | None, x: Tensor, generator: torch.Generator
) -> float:
    """Variance of one draw's gradient for the encoder's output of a digit, summed over bits, mean over digits."""
    draws = []
    with torch.no_grad():
        logits = vae.encoder(x)
    for _ in range(VARIANCE_DRAWS):
        own = logits.clone().requires_grad_()
        loss = objective(name, vae, method, x, own, generator)[0]
        draws.append(torch.autograd.grad(loss.sum(), own)[0])
    return float(torch.stack(draws).var(0).sum(-1).mean())
