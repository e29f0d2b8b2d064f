"""Pyro's side of `reverie bench train`: one step of a deep Markov model, timed.

`python models_peers.py SEQUENCES STEPS NOTES Z EMISSION TRANSITION RNN DENSITY RATE SECONDS`

Runs in an interpreter that may know nothing of reverie. The model is the DKS variant of Krishnan et al. (2017) with the
layers and sizes of Pyro's own example: gated transition, two hidden layers in the emission, a rectified recurrent
network backwards in time behind the posterior; ClippedAdam and Trace_ELBO with one draw.
"""

import sys


def training_step(sequences, steps, notes, z_dim, emission, transition, rnn, density, rate):
    """One step of Pyro's inference on random notes."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import ClippedAdam
    from torch import nn
    from torch.nn import functional

    class DeepMarkovModel(nn.Module):
        """Density and posterior as Pyro programs over the same modules."""

        def __init__(self):
            super().__init__()
            hidden = (nn.Linear(z_dim, emission), nn.ReLU(), nn.Linear(emission, emission), nn.ReLU())
            self.emission = nn.Sequential(*hidden, nn.Linear(emission, notes), nn.Sigmoid())
            self.gate = nn.Sequential(
                nn.Linear(z_dim, transition), nn.ReLU(), nn.Linear(transition, z_dim), nn.Sigmoid()
            )
            self.proposed = nn.Sequential(nn.Linear(z_dim, transition), nn.ReLU(), nn.Linear(transition, z_dim))
            self.linear, self.spread = nn.Linear(z_dim, z_dim), nn.Linear(z_dim, z_dim)
            self.backward_rnn = nn.RNN(notes, rnn, nonlinearity="relu", batch_first=True)
            self.past, self.mean, self.raw_std = nn.Linear(z_dim, rnn), nn.Linear(rnn, z_dim), nn.Linear(rnn, z_dim)
            self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))
            self.h_0 = nn.Parameter(torch.zeros(1, 1, rnn))

        def density(self, frames):
            """p(x, z)."""
            pyro.module("dmm", self)
            z = self.z_0.expand(len(frames), -1)
            with pyro.plate("sequences", len(frames)):
                for t in pyro.markov(range(frames.shape[1])):
                    gate, proposed = self.gate(z), self.proposed(z)
                    mean = (1 - gate) * self.linear(z) + gate * proposed
                    std = functional.softplus(self.spread(proposed.relu()))
                    z = pyro.sample(f"z_{t}", dist.Normal(mean, std).to_event(1))
                    pyro.sample(f"x_{t}", dist.Bernoulli(self.emission(z)).to_event(1), obs=frames[:, t])

        def posterior(self, frames):
            """q(z | x)."""
            pyro.module("dmm", self)
            start = self.h_0.expand(-1, len(frames), -1).contiguous()
            summary = self.backward_rnn(frames.flip(1), start)[0].flip(1)
            z = self.z_q_0.expand(len(frames), -1)
            with pyro.plate("sequences", len(frames)):
                for t in pyro.markov(range(frames.shape[1])):
                    combined = 0.5 * (self.past(z).tanh() + summary[:, t])
                    std = functional.softplus(self.raw_std(combined))
                    z = pyro.sample(f"z_{t}", dist.Normal(self.mean(combined), std).to_event(1))

    torch.manual_seed(0)
    frames = (torch.rand(sequences, steps, notes) < density).float()
    model = DeepMarkovModel()
    svi = SVI(model.density, model.posterior, ClippedAdam({"lr": rate, "clip_norm": 10.0}), Trace_ELBO())
    return lambda: svi.step(frames)


def main(numbers):
    """Time steps and print seconds per step."""
    from kalman_peers import best_time

    density, rate, seconds = map(float, numbers[7:])
    print(best_time(training_step(*map(int, numbers[:7]), density, rate), seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
