"""Navigation experiments: the true map beside breadth-first search, mazes on the true map, the stages end to end."""

import json

import numpy as np
import pytest
import torch
from memory_worlds import distances
from reverie.envs.image_navigation import LAYOUT, X, Y
from reverie.scripts.reproduce import gtm_sm_navigate as navigate
from reverie.scripts.reproduce import gtm_sm_obstacles as obstacles
from reverie.scripts.reproduce.navigation_worlds import NavigationWorld, TruePlanner
from reverie.world_models import GTMSM, GTMSMConfig, Spaces
from reverie.world_models.checkpoints import save


@pytest.fixture(scope="module")
def grid():
    return NavigationWorld("reverie/ImageNavigationObstacles-v0", num_maps=8)


def test_the_true_map_knows_the_shortest_paths(grid):
    states, steps = grid.choose_goals(grid.starts(6, 0), 6.0, seed=1)
    for state, found in zip(states.astype(int), steps, strict=True):
        free = ~grid.dynamics.blocked[state[LAYOUT]]
        away = distances(free, (state[Y], state[X]))
        x, y = grid.map.state(state[None]).values[0, grid.map.goal].int().tolist()
        assert found == pytest.approx(away[y, x], abs=1e-3) and away[y, x] >= 6
    arrived, _ = grid.run(TruePlanner(grid), states, 2 * steps)
    np.testing.assert_allclose(arrived, steps, atol=1e-3)
    start = grid.starts(1, 0)
    assert navigate.coverage(grid, start[:, None]) == pytest.approx(
        1 / (~grid.dynamics.blocked[int(start[0, LAYOUT])]).sum()
    )
    with pytest.raises(ValueError, match="map 0 has no place 99 steps away; lower --least"):
        grid.choose_goals(start, 99, seed=0)


def test_one_planner_walks_through_mazes_too():
    """Inertia, a heading, walls: the planner that moves on a grid, on the true map of mazes."""
    world = NavigationWorld("reverie/MazeNavigation-v0", split="test", size=16, num_mazes=8)
    states = world.starts(2, 5)
    steps = world.shortest(states)
    assert steps.min() > 10
    arrived, _ = world.run(TruePlanner(world, horizon=2), states, 2 * steps + 10)
    assert np.isfinite(arrived).all() and (arrived < 1.6 * steps + 10).all()


def test_an_agent_that_can_only_turn_turns():
    world = NavigationWorld("reverie/MazeRotation-v0", size=16, num_mazes=4)
    states, act = world.starts(4, 0), TruePlanner(world, horizon=2)
    for _ in range(30):
        states = world.dynamics.transition(states, act(states, None))
    assert world.dynamics.reward(states, np.zeros(4, dtype=int), states).min() > 0.98


def test_landmarks_are_added_where_and_as_the_model_is():
    """Its device and dtype alike: a model on a GPU must not meet a tensor of the CPU."""
    model = GTMSM(GTMSMConfig(z_dim=4, hidden=(8,)), Spaces((3, 8, 8), 5, discrete_actions=True)).double()
    model.name = "gtm-sm"
    wider = obstacles.with_landmarks(model, 0)
    stride = model.transition.wish(torch.eye(5, dtype=torch.float64)).norm(dim=-1).max()
    assert wider.config.surprise_std == float(stride) and wider.landmarks is not None


def test_stages_end_to_end(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = GTMSMConfig(z_dim=4, hidden=(8,), memorise=8, predict=3, first_memorise=8, first_predict=3)
    model = GTMSM(config, Spaces((3, 8, 8), 5, discrete_actions=True))
    model.name = "gtm-sm"
    save(model, tmp_path / "source/main/seed-0/start-0", extra={})
    small = {name: (env, 4, 14, seed, split) for name, (env, _, _, seed, split) in obstacles.DATA.items()}
    monkeypatch.setattr(obstacles, "DATA", small)
    monkeypatch.setattr(obstacles, "MEMORISE", 8)
    args = obstacles.Args(
        seeds=(0,), source=tmp_path / "source", steps=2, batch_size=2, out=tmp_path / "obstacles",
        json=tmp_path / "obstacles.json",
    )  # fmt: skip
    obstacles.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    assert {"position_error/landmark", "position_error/transition", "within_half/landmark"} < metrics.keys()
    assert "position_error/landmark/1" in metrics
    assert metrics["position_error"] == metrics["position_error/landmark"]
    from reverie.world_models.checkpoints import load

    trained = load(args.out / "main" / "seed-0")
    assert trained.config.inference == "landmark" and trained.config.landmarks == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), "only landmarks are learned"
    options = {"seeds": (0,), "maps": 2, "explore": 4, "least": 2.0, "source": args.out, "out": tmp_path / "navigate"}
    options["json"] = tmp_path / "navigate.json"
    navigate.main(navigate.Args(**options, stages=("2d",)))
    metrics = json.loads(options["json"].read_text())["metrics"]
    keys = {f"{key}/2d" for key in ("success", "path_ratio", "coverage", "coverage/memory", "coverage/random")}
    ways = ("memory", "greedy", "random", "true-map")
    keys |= {f"{key}/{way}/2d" for key in ("success", "path_ratio") for way in ways}
    assert keys == metrics.keys()
    assert metrics["success/true-map/2d"]["mean"] == metrics["path_ratio/true-map/2d"]["mean"] == 1
    spaces = Spaces((3, 32, 32), 8, discrete_actions=True)
    walker = GTMSM(GTMSMConfig(position_dim=3, transition="inertia", z_dim=2, hidden=(4,), neighbours=2), spaces)
    walker.name = "gtm-sm"
    save(walker, tmp_path / "walking/main/seed-0/start-0", extra={})
    walking = {"stages": ("3d",), "walking": tmp_path / "walking", "explore": 24, "least": 0.0}
    navigate.main(navigate.Args(**options | walking))
    metrics = json.loads(options["json"].read_text())["metrics"]
    keys = {f"success/{way}{kind}/3d" for way in ways for kind in ("", "/anywhere")}
    assert keys | {"coverage/random/3d", "success/3d", "success/2d"} <= metrics.keys()
    assert metrics["success/true-map/3d"]["mean"] == 1


def test_models_that_are_not_there_are_trained_first(tmp_path, monkeypatch):
    from reverie.scripts.reproduce import gtm_sm_image_navigation, gtm_sm_walking

    trained = []
    for module, name in ((gtm_sm_image_navigation, "ImageNavigation"), (gtm_sm_walking, "Walking")):
        monkeypatch.setattr(getattr(module, name), "train", lambda self: trained.append((self.name, self.args)))
    here = tmp_path / "walking-full/main/seed-1/start-0"
    here.mkdir(parents=True)
    (here / "config.json").touch()
    args = obstacles.Args(seeds=(0,), source=tmp_path / "maps", out=tmp_path / "obstacles")
    with pytest.raises(FileNotFoundError):  # nothing was trained, as train stands in for it
        obstacles.Obstacles(args).train()
    steps = navigate.Navigate(navigate.Args(seeds=(1, 2), source=args.out, walking=tmp_path / "walking-full"))
    steps.prepare("3d")
    (maps, of_maps), (walking, of_walking) = trained
    assert (maps, of_maps.seeds, of_maps.out) == ("gtm-sm-image-navigation", (0,), tmp_path / "maps")
    assert (walking, of_walking.seeds, of_walking.preset) == ("gtm-sm-walking", (2,), "full")
    assert of_walking.out == tmp_path / "walking-full"
