"""Slow checks: that models learn what they are for, from pixels."""

import json

import numpy as np
import pytest
import torch
from reverie.envs.rollouts import collect
from reverie.scripts.reproduce import gtm_sm_ladder as ladder
from reverie.scripts.reproduce.gtm_sm_mazes import relative
from reverie.scripts.spaces import spaces_of
from reverie.world_models import KVAE, Batch, KVAEConfig, Spaces
from reverie.world_models.gtm_transitions import TRANSITIONS
from reverie.world_models.gtm_walk import walk
from reverie.world_models.training import TrainingConfig, fit


@pytest.mark.slow
def test_kvae_finds_position_and_motion_in_a_bouncing_ball(tmp_path):
    """After 500 steps the code is the ball's position, and smoothing beats the ball's last known place by far."""
    settings = {"frames": "binary"}
    data = [
        collect("reverie/BouncingBall-v0", tmp_path / name, episodes=num, seed=seed, env_kwargs=settings, max_steps=19,
                progress=False).windows(20)
        for name, num, seed in (("train", 1600, 0), ("validation", 100, 1))
    ]  # fmt: skip
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(), spaces_of(data[0].dataset))
    fit(model, data[0], TrainingConfig(epochs=10))

    arrays = data[1][:]
    batch = Batch.from_numpy(arrays, model.spaces)
    with torch.no_grad():
        codes = model.encode(batch.frames).reshape(-1, 2).numpy()
        mask = torch.ones(batch.frames.shape[:2], dtype=torch.bool)
        mask[:, 8:11] = False
        filled = model.impute(batch.frames, batch.actions, mask).mean > 0.5
    position = arrays["states"][..., :2].reshape(-1, 2)
    design = np.c_[codes, np.ones(len(codes))]
    fitted = design @ np.linalg.lstsq(design, position, rcond=None)[0]
    explained = 1 - ((fitted - position) ** 2).mean(0) / position.var(0)
    assert (explained > 0.9).all(), explained
    truth = batch.frames > 0.5
    wrong = (filled != truth).double().mean((-1, -2, -3))[:, 8:11].mean()
    held = (truth[:, 7:8] != truth[:, 8:11]).double().mean()
    assert wrong < 0.75 * held, (wrong, held)


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "restarts"), [("maze", 2), ("rotation", 6)])
def test_gtm_sm_remembers_where_it_saw_what(tmp_path, rung, restarts):
    """4x4 places after 16 steps, a turn of 15 steps after 20: what was seen is found again, on photographs never seen.

    From random weights, without a place, a wall or a heading being told.
    """
    out, path = tmp_path / "run", tmp_path / "r.json"
    ladder.main(ladder.Args(seeds=(0,), rungs=(rung,), restarts=restarts, out=out, json=path))
    metrics = json.loads(path.read_text())["metrics"]
    found = {key: metrics[f"{key}/{rung}"]["mean"] for key in ("recall", "r2", "psnr", "psnr/vae")}
    assert found["recall"] > 0.95 and found["r2"] > 0.95, found
    assert found["psnr"] > found["psnr/vae"] - 1.0, found


@pytest.mark.slow
def test_inertia_is_how_the_walker_of_the_mazes_moves(tmp_path):
    """Fitted to felt displacements alone, it keeps track of walks never seen, as the paper's transition does not."""
    data = collect("reverie/MazeRoom-v0", tmp_path / "data", episodes=80, seed=0, env_kwargs={"size": 16},
                   max_steps=149, num_envs=40, progress=False)  # fmt: skip
    arrays = data.windows(150, infos=("displacement",)).arrays()
    batch = Batch.from_numpy(arrays, Spaces((3, 16, 16), 8, discrete_actions=True))
    true = torch.as_tensor(relative(arrays["states"][..., :3]))
    off = {}
    for name in ("inertia", "momentum"):
        torch.manual_seed(0)
        transition = TRANSITIONS[name](3, 8, 0.1)
        optimizer = torch.optim.Adam(transition.parameters(), 2e-2)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        for _ in range(450):
            rows = torch.randint(60, (20,))
            wishes = transition.wish(batch.actions[rows, :80])
            _, motion = walk(transition, wishes, torch.zeros_like(wishes))
            loss = (motion[..., :3] - batch.displacement[rows, :80])[:, 1:].square().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            wishes = transition.wish(batch.actions[60:])
            position, _ = walk(transition, wishes, torch.zeros_like(wishes))
        error = position - true[60:]
        off[name] = float(error[:, -1, :2].norm(dim=-1).mean()), float(error[:, -1, 2].abs().mean())
    assert off["inertia"][0] < 0.35 and off["inertia"][1] < 0.15, off  # metres and radians, of a room of 7 m
    assert min(theirs / ours for ours, theirs in zip(*off.values(), strict=True)) > 1.5, off
