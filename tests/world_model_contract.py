"""The tiny models of the contract suite, their windows, and what its tests compare with.

A new model needs an entry in `CONTRACT`: tiny, with pairwise different sizes and at least one axis of size 1.
"""

from dataclasses import dataclass, replace
from typing import Any

import own_world_model
import pytest
import torch
from reverie.world_models import (
    MODELS,
    AERNNConfig,
    AIRConfig,
    APDRConfig,
    Batch,
    CodeRNNConfig,
    DMMConfig,
    DVBFConfig,
    GRUConfig,
    GTMSMConfig,
    KVAEConfig,
    LGSSMConfig,
    RSSMConfig,
    Spaces,
    SRNNConfig,
    STORNConfig,
    VAEConfig,
    VAERNNConfig,
    VRNNConfig,
    WorldModel,
)

VECTORS = Spaces((3,), 2, reward_mean=-0.5, reward_std=2.0)
IMAGES = Spaces((1, 7, 5), 2, reward_mean=-0.5, reward_std=2.0)
CONV_IMAGES = Spaces((3, 4, 8), 1)
KVAE = {"a_dim": 2, "z_dim": 3, "num_mixtures": 2, "hidden": (6,), "dynamics_units": 5, "head_units": 4}
CONV = KVAE | {"network": "conv", "channels": (4, 5)}
SEQUENTIAL = {"z_dim": 2, "network": "mlp", "hidden": (6,), "units": 5, "head_units": 4, "initial_std": 1.0}
SEQUENTIAL_CONV = SEQUENTIAL | {"network": "conv", "channels": (4, 5), "z_dim": 1}
GAUSSIAN = SEQUENTIAL | {"likelihood": "gaussian"}
FRAMES = {"network": "mlp", "hidden": (6,), "head_units": 4, "initial_std": 1.0, "likelihood": "gaussian"}
SRNN = {"d_dim": 3, "summary_units": 4}

GTM = {"z_dim": 4, "hidden": (6,), "neighbours": 2, "prior_units": 5, "position_std": 0.1}
GTM |= {"memorise": 2, "predict": 1, "first_memorise": 2, "first_predict": 2, "pieces": "anywhere", "spare": 0}
TURNING = GTM | {"position_dim": 3}

OBJECTS = {"num_slots": 3, "what_dim": 2, "units": 5, "glimpse_size": 3, "glimpse_hidden": (6,), "channels": (4, 5)}
OBJECTS |= {"ratio": 0.7, "frame_std": 1.0, "first_steps": 1, "num_particles": 2}
OBJECTS |= {"smallest": 0.5, "first_window": 1.5, "largest": 3.0}  # in the frame also when they drift
SQAIR = {"discovery_prior": "learned", "propagate_around": "last", "appearance": "gated", "glimpse_mask": True}

AIR = {"num_slots": 3, "what_dim": 2, "units": 5, "channels": (2, 4), "glimpse_size": 3, "glimpse_hidden": (6,)}
AIR |= {"ratio": 3.0, "frame_std": 1.0, "num_particles": 2, "smallest": 0.5, "largest": 3.0}
AIR_RELAXED = AIR | {"ratio": 0.7, "gradient": "concrete", "count_prior": "geometric"}

CONTRACT: dict[str, dict[str, tuple[Any, Spaces]]] = {
    "gtm-sm": {
        "walls": (GTMSMConfig(**GTM), IMAGES),
        "linear-sampled-conv": (
            GTMSMConfig(**GTM, transition="linear", kl="sampled", network="conv", channels=(4, 5)),
            CONV_IMAGES,
        ),
        "rotation-map": (GTMSMConfig(**TURNING, transition="rotation", key_dim=5, likelihood="bernoulli"), IMAGES),
        "momentum-learned": (GTMSMConfig(**TURNING, transition="momentum", prior="learned"), VECTORS),
        "inertia-landmark": (GTMSMConfig(**TURNING, transition="inertia", inference="landmark"), IMAGES),
        "landmark": (GTMSMConfig(**GTM | {"first_kernel": 0.1}, inference="landmark", landmarks=3), IMAGES),
    },
    "kvae": {
        "mlp-lstm": (KVAEConfig(**KVAE | {"network": "mlp"}), IMAGES),
        "conv-mlp-gaussian": (KVAEConfig(**CONV, dynamics_network="mlp", likelihood="gaussian"), CONV_IMAGES),
        "shared-emission": (KVAEConfig(**KVAE | {"network": "mlp", "emission": "shared"}), IMAGES),
        "paper-fifo": (KVAEConfig(**CONV, dynamics_network="fifo", decoder="paper"), CONV_IMAGES),
        "concrete": (KVAEConfig(**KVAE | {"network": "mlp"}, dynamics_network="concrete"), IMAGES),
    },
    "lgssm": {
        "optimal": (LGSSMConfig(z_dim=2, proposal="optimal"), VECTORS),
        "prior": (LGSSMConfig(z_dim=1, proposal="prior"), VECTORS),
        "exact": (LGSSMConfig(z_dim=4), replace(VECTORS, frame_shape=(1,))),
    },
    "srnn": {
        "smooth-residual": (SRNNConfig(**GAUSSIAN, **SRNN), VECTORS),
        "smooth": (SRNNConfig(**SEQUENTIAL_CONV, **SRNN, residual=False), CONV_IMAGES),
        "filter-residual": (SRNNConfig(**GAUSSIAN, **SRNN, inference="filtering", inputs="both"), VECTORS),
        "filter": (SRNNConfig(**GAUSSIAN, **SRNN, inference="filtering", residual=False, frame_std="learned"), VECTORS),
        "smooth-frames": (SRNNConfig(**SEQUENTIAL | {"likelihood": "mixture"}, **SRNN, inputs="frames"), VECTORS),
    },
    "vrnn": {
        "shared": (VRNNConfig(**GAUSSIAN, h_dim=3), VECTORS),
        "separate": (VRNNConfig(**SEQUENTIAL_CONV, h_dim=3, features="separate"), CONV_IMAGES),
    },
    "storn": {"mlp": (STORNConfig(**GAUSSIAN, h_dim=3), VECTORS)},
    "vae-rnn": {"mlp": (VAERNNConfig(**GAUSSIAN, d_dim=3), VECTORS)},
    "dmm": {
        "smooth": (DMMConfig(**GAUSSIAN, summary_units=4), VECTORS),
        "filter": (DMMConfig(**SEQUENTIAL_CONV, inference="filtering"), CONV_IMAGES),
    },
    "dvbf": {
        "smooth": (DVBFConfig(**GAUSSIAN, num_systems=3, summary_units=4), VECTORS),
        "filter": (DVBFConfig(**SEQUENTIAL_CONV, num_systems=3, inference="filtering"), CONV_IMAGES),
    },
    "vae": {
        "vae": (VAEConfig(**SEQUENTIAL_CONV), CONV_IMAGES),
        "iwae": (VAEConfig(**GAUSSIAN, num_samples=3), VECTORS),
    },
    "code-rnn": {"mlp": (CodeRNNConfig(**GAUSSIAN, h_dim=3), VECTORS)},
    "ae-rnn": {"mlp": (AERNNConfig(**FRAMES, code_dim=2, h_dim=3), VECTORS)},
    "gru": {
        "mlp": (GRUConfig(**FRAMES, h_dim=3), VECTORS),
        "lstm": (GRUConfig(**FRAMES, h_dim=3, cell="lstm"), IMAGES),
    },
    "rssm": {"mlp": (RSSMConfig(**SEQUENTIAL, h_dim=3), IMAGES)},
    "apdr": {
        "iwae": (APDRConfig(**OBJECTS), IMAGES),
        "elbo-add-black": (
            APDRConfig(
                **OBJECTS | {"num_slots": 1, "ratio": 4.0}, objective="elbo", rendering="add", background="black"
            ),
            CONV_IMAGES,
        ),
        "sqair": (APDRConfig(**OBJECTS, **SQAIR), CONV_IMAGES),
        "concrete": (APDRConfig(**OBJECTS, presence="concrete"), IMAGES),
        "remainder-steered-edge": (
            APDRConfig(
                **OBJECTS | {"num_slots": 2, "what_dim": 7}, attends="remainder", motion="steered", sees_edge=True
            ),
            IMAGES,
        ),
        "ends-outside": (
            APDRConfig(**OBJECTS | {"smallest": 0.2, "first_window": 0.3, "largest": 0.5}, ends_outside=0.1),
            IMAGES,
        ),
    },
    "air": {
        "vimco-black": (AIRConfig(**AIR), IMAGES),
        "nvil-remainder-image": (
            AIRConfig(
                **AIR | {"num_slots": 2, "what_dim": 7}, gradient="nvil", attends="remainder", background="image"
            ),
            CONV_IMAGES,
        ),
        "nvil-over": (AIRConfig(**AIR | {"num_particles": 1}, gradient="nvil", rendering="over"), IMAGES),
        "concrete-geometric-latent": (AIRConfig(**AIR_RELAXED, background="latent", background_dim=2), CONV_IMAGES),
    },
    "own": {
        "vectors": (own_world_model.OwnConfig(), VECTORS),
        "images": (own_world_model.OwnConfig(z_dim=4), IMAGES),
    },
}
T = 6
RANKS = [(), (5,), (1, 3)]


@dataclass(frozen=True)
class Case:
    name: str
    config: Any
    spaces: Spaces

    def build(self) -> WorldModel:
        """The model in float64, away from the zeros and identities it starts from, where mistakes hide."""
        torch.manual_seed(0)
        model = MODELS[self.name](self.config, self.spaces).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    def batch(self, *batch_shape, steps=T, seed=1, gaps=False) -> Batch:
        """Random windows; with `gaps` frames are missing at random and in a row, and the last steps are invalid."""
        generator = seeded(seed)
        shape = (*batch_shape, steps)
        frames = torch.rand(*shape, *self.spaces.frame_shape, generator=generator, dtype=torch.float64)
        actions = 2 * torch.rand(*shape, self.spaces.action_dim, generator=generator, dtype=torch.float64) - 1
        rewards = torch.randn(shape, generator=generator, dtype=torch.float64)
        time = torch.arange(steps).expand(shape)
        mask, valid = torch.ones(2, *shape, dtype=torch.bool)
        if gaps:
            mask = (time != 1) & (torch.rand(shape, generator=generator) < 0.7) | (time == 0)
            valid = time < steps - 1
        return Batch(frames, actions, rewards, time == steps - 2, time == 0, mask, valid)


CASES = [
    pytest.param(Case(name, config, spaces), id=f"{name}-{variant}")
    for name, variants in CONTRACT.items()
    for variant, (config, spaces) in variants.items()
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flags(batch):
    return {"mask": batch.mask, "valid": batch.valid, "is_first": batch.is_first}


def hidden(batch, value=torch.nan):
    """The same windows with `value` in every frame that is not observed."""
    observed = batch.observed.reshape(batch.observed.shape + (1,) * (batch.frames.ndim - batch.observed.ndim))
    return replace(batch, frames=torch.where(observed, batch.frames, value))


def step(tensor, t, batch_rank):
    return tensor[(slice(None),) * batch_rank + (t,)]


def assert_states_close(ours, theirs, **tolerance):
    for name, leaf in ours.tensors().items():
        other = theirs.tensors()[name]
        torch.testing.assert_close(leaf, other, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def assert_finite(state):
    for name, leaf in state.tensors().items():
        assert bool(torch.isfinite(leaf).all()), name


def loss_and_gradients(model, batch, progress=1.0):
    model.zero_grad()
    loss = model.loss(batch, progress=progress, generator=seeded())
    loss.total.backward()
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
