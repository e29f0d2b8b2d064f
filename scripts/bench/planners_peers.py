"""The peers' side of `reverie bench planners`: `python planners_peers.py FOLDER PEER BATCH SECONDS`.

Runs in an interpreter that may know nothing of reverie: reads weights.npz, times the peer, prints seconds per call.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

LATENT, ACTIONS, HIDDEN = 32, 2, 128
HORIZON, CANDIDATES, ITERATIONS, ELITES = 12, 300, 10, 30
PEERS = ("torchrl-cem", "torchrl-mppi")


def measure_peer(python: Path, folder: Path, peer: str, batch: int, seconds: float) -> float:
    """Seconds per call of a peer that plans for `batch` situations, measured in a process of its own.

    Raises:
        RuntimeError: if the peer is not installed there or fails; the message ends with its last line.
    """
    arguments = [str(python), __file__, str(folder), peer, str(batch), str(seconds)]
    run = subprocess.run(arguments, capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"{peer} did not run under {python}: {last}; install the peers with `pip install 'reverie[bench]'`, point "
            "--peer-python to an interpreter that has them, or leave it out with --peers"
        )
    return float(run.stdout.strip().splitlines()[-1])


def torchrl_planner(peer, weights, batch):
    """One call of torchrl's planner on an environment made of the latent model."""
    import torch
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torch import nn
    from torchrl.data import Bounded, Composite, Unbounded
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import CEMPlanner, MPPIPlanner, ValueOperator, WorldModelWrapper
    from torchrl.objectives.value import TDLambdaEstimator

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.W1, self.b1, self.W2, self.b2 = (torch.from_numpy(weights[k]) for k in ("W1", "b1", "W2", "b2"))

        def forward(self, z, action):
            hidden = torch.cat([z, action], -1) @ self.W1.T + self.b1
            return hidden.relu_() @ self.W2.T + self.b2

    class Reward(nn.Module):
        def forward(self, z):
            return -z.square().sum(-1, keepdim=True)

    class Env(ModelBasedEnvBase):
        def __init__(self, world_model):
            super().__init__(world_model, device="cpu", batch_size=[])
            self.observation_spec = Composite(z=Unbounded((LATENT,)))
            self.state_spec = Composite(z=Unbounded((LATENT,)))
            self.action_spec = Bounded(-1.0, 1.0, (ACTIONS,))
            self.reward_spec = Unbounded((1,))

        def _reset(self, tensordict):
            return TensorDict({"z": torch.zeros(LATENT)}, [])

    world = WorldModelWrapper(
        TensorDictModule(Step(), in_keys=["z", "action"], out_keys=["z"]),
        TensorDictModule(Reward(), in_keys=["z"], out_keys=["reward"]),
    )
    env = Env(world)
    sizes = {"planning_horizon": HORIZON, "optim_steps": ITERATIONS, "num_candidates": CANDIDATES, "top_k": ELITES}
    if peer == "torchrl-cem":
        planner = CEMPlanner(env, **sizes)
    else:
        value = ValueOperator(nn.Linear(LATENT, 1), in_keys=["z"])
        planner = MPPIPlanner(env, TDLambdaEstimator(gamma=0.99, lmbda=0.95, value_network=value), 1.0, **sizes)
    start = torch.from_numpy(weights["start"][:batch])
    done = torch.zeros(batch, 1, dtype=torch.bool)

    @torch.no_grad()
    def plan():
        situation = TensorDict({"z": start, "done": done, "terminated": done}, [batch])
        action = planner(situation).get("action")
        assert action.shape == (batch, ACTIONS)
        return action

    return plan


def main(folder, peer, batch, seconds):
    """Time a peer and print seconds per call."""
    from kalman_peers import best_time

    weights = dict(np.load(Path(folder) / "weights.npz"))
    print(best_time(torchrl_planner(peer, weights, int(batch)), float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
