"""The APDR's experiment end to end on tiny data, its floor, and what tracking makes of a model's objects."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from reverie.envs.rollouts import collect
from reverie.scripts.outlines import colour_of, outlined
from reverie.scripts.reproduce import apdr_balls as balls
from reverie.scripts.reproduce import apdr_digits as digits
from reverie.scripts.reproduce.apdr_measures import hidden_frames, met_frames
from reverie.scripts.reproduce.component_tracker import Pace, components, relinked, track_components
from reverie.scripts.true_objects import TrueObjects, as_seen, lives, true_tracks
from reverie.world_models import AIRConfig, APDRConfig, Spaces, State, WorldModel
from reverie.world_models.capabilities import Objects, Proposal
from reverie.world_models.checkpoints import load
from reverie.world_models.evaluation.following import filtered_mse, follow, position_errors
from reverie.world_models.evaluation.tracking import Tracks, tracking_metrics
from reverie.world_models.state import event
from reverie.world_models.training import TrainingConfig

TINY = APDRConfig(what_dim=3, units=6, glimpse_size=4, glimpse_hidden=(6,), channels=(2,), num_particles=2)
TINY_AIR = AIRConfig(
    what_dim=3, units=6, glimpse_size=4, glimpse_hidden=(6,), channels=(2, 2), num_particles=2, background="image"
)


def test_the_experiment_measures_every_key(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(balls.Balls, "episodes", {"train": 8, "validation": 3, "test": 4})
    monkeypatch.setattr(balls.Balls, "lengths", {"train": 4, "validation": 20, "test": 20})
    args = balls.Args(
        seeds=(0, 1), out=tmp_path / "run", json=tmp_path / "result.json", model=TINY, air=TINY_AIR, air_epochs=1,
        air_seeds=(0,),
        training=TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-3),
    )  # fmt: skip
    balls.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    ahead = ("position/5", "position/5/still", "position/5/coasting", "kept/5", "alive/10", "alive/10/true", "mse/1")
    for key in ("count_accuracy", "mota", "idf1", "id_switches", "idf1/greedy", "mse", *ahead):
        assert len(metrics[key]["values"]) == 2, key
    assert {"restarts_ok", "count_accuracy/components", "idf1/components", "mota/components"} <= set(metrics)
    assert metrics["count_accuracy/seen"]["mean"] == 1 and metrics["mota/seen"]["mean"] > 0.9
    assert len(metrics["idf1/air"]["values"]) == len(metrics["mse/air"]["values"]) == 1
    assert {path.name for path in (args.out / "pictures").iterdir()} >= {"apdr-balls.gif", "sequence-0.png"}
    before = args.json.read_text()
    balls.main(replace(args, stages=("train",)))
    assert json.loads(args.json.read_text())["metrics"] == json.loads(before)["metrics"]
    for others, stage in (
        ({"seeds": (0,)}, "evaluate"), ({"particles": 3}, "evaluate"), ({"air_epochs": 2}, "air"),
        ({"air_learning_rate": 2e-3}, "air"),
    ):  # fmt: skip
        balls.main(replace(args, stages=("data",), **others))
        assert f"no result is written: {stage} in" in capsys.readouterr().err
    config = json.loads(args.json.read_text())["config"]
    assert config["seeds"] == [0, 1] and "stages" not in config, "the result has those of earlier calls, too"
    with pytest.raises(ValueError, match="already holds a run"):
        balls.main(replace(args, resume=False))
    with pytest.raises(ValueError, match="--particles must be at least 1, found 0"):
        replace(args, particles=0)


def test_the_shipped_model_follows_balls(tmp_path):
    data = collect(balls.Balls.env_id, tmp_path, episodes=12, seed=77, env_kwargs={**balls.Balls.world, "size": 32},
                   max_steps=39, num_envs=12, progress=False)  # fmt: skip
    truth = TrueObjects(data, 40)
    found = follow(load("apdr-balls"), truth)
    metrics = tracking_metrics(zip(true_tracks(truth), found, strict=True), (32, 32), reach=4.0)
    assert metrics["count_accuracy"] > 0.93 and metrics["idf1"] > 0.85
    assert metrics["id_switches"] < 12


def test_digits_are_measured_by_the_same_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(digits.Digits, "episodes", {"train": 4, "validation": 2, "test": 8})
    args = digits.Args(
        seeds=(0,), out=tmp_path / "run", json=tmp_path / "result.json", model=replace(TINY, rendering="add"),
        stages=("train", "components", "evaluate"), training=TrainingConfig(epochs=1, batch_size=4),
    )  # fmt: skip
    digits.main(args)
    result = json.loads(args.json.read_text())
    assert {"count_accuracy", "idf1", "restarts_ok", "idf1/components", "position/3"} <= set(result["metrics"])
    assert 0.9 < result["references"]["SQAIR, released checkpoint"]["count_accuracy"] < 1
    ids = digits.Digits(args).truth()[np.arange(8)]["ids"]  # the same number in all frames of a sequence
    numbers, shares = np.unique((ids[:, 0] >= 0).sum(-1), return_counts=True)
    assert len(numbers) > 1
    parts = [result["metrics"][f"count_accuracy/most-{n}/components"] for n in numbers]
    whole = result["metrics"]["count_accuracy/components"]
    np.testing.assert_allclose(np.average([part["mean"] for part in parts], weights=shares), whole["mean"])


def test_a_ball_that_returns_is_another_and_a_hidden_one_the_same():
    box = np.array([10.0, 10, 16, 16])
    away = box + np.array([40.0, 0, 40, 0])
    boxes = np.stack([np.stack([b, box]) for b in (box, away, box, box, away, away, box)])[None]
    ids = np.tile([[0, 1]], (7, 1))[None]
    found = lives(ids, boxes, (32, 32))
    np.testing.assert_array_equal(found[0, :, 0], [0, -1, 2, 2, -1, -1, 3])
    np.testing.assert_array_equal(found[0, :, 1], 1)
    assert (lives(np.full_like(ids, -1), boxes, (32, 32)) == -1).all()


def test_lives_have_numbers_of_their_own_whatever_the_worlds_are():
    """Numbers that already run on within a slot, that begin high, that change without a gap, and slots that swap."""
    ids = np.array([[0, -1, 9], [-1, 4, 9], [2, 4, 5], [4, 2, 5], [-1, 2, 9]])
    boxes = np.tile([4.0, 4, 8, 8], (1, 5, 3, 1))
    found = lives(ids[None], boxes, (32, 32))[0]
    np.testing.assert_array_equal(found, [[0, -1, 1], [-1, 2, 1], [3, 2, 4], [2, 3, 4], [-1, 3, 5]])
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile([-1, -1, 0, 3, 7], (40, 12, 1)), axis=-1)
    found = lives(ids, np.tile([4.0, 4, 8, 8], (40, 12, 5, 1)), (32, 32))
    for numbers, theirs in zip(found, ids, strict=True):
        for number in range(numbers.max() + 1):
            frames, slots = np.nonzero(numbers == number)
            assert (np.diff(frames) == 1).all() and len(set(theirs[frames, slots])) == 1


def picture(*squares, size=32):
    frame = np.zeros((size, size, 3), np.uint8)
    for k, (x, y, half) in enumerate(squares):
        frame[y - half : y + half, x - half : x + half, k % 3] = 255
    return frame


def test_whom_nobody_can_know_again_is_another():
    """In frames of 10 x 8: one is hidden inside; one shows by less than a pixel at the edge; one by a pixel."""
    boxes = np.array([[2, 2, 6, 6], [-3, 2, 1, 6], [8, 2, 12, 6]])[None].repeat(4, 0)
    shows = np.array([[1, 0, 1, 1], [0.25, 0.25, 0.06, 0.25], [0.5, 0.07, 0.5, 0]]).T
    found = as_seen(Tracks(np.array([[4, 5, 6]]).repeat(4, 0), boxes, shows), (8, 10))
    assert found.ids.T.tolist() == [[0] * 4, [1, 1, -1, 3], [2, 2, 2, -1]]
    assert found.boxes is boxes and found.visibility is shows


def test_films_are_of_those_who_are_hidden_and_come_back():
    boxes, shows = np.zeros((6, 2, 4)), np.ones((6, 2))
    ids = np.array([[0, 1]] * 6)
    shows[:, 0] = [1, 0.2, 0.4, 0.5, 1, 0.1]  # two frames between, and one that it does not come back from
    shows[:, 1] = [0.2, 0.2, 0.5, 0.8, 0.8, 0.8]  # never clear
    boxes[:, :, 2:] = 7.0
    assert hidden_frames(Tracks(ids, boxes, shows), (7, 8)) == 2
    assert hidden_frames(Tracks(ids[:, ::-1], boxes, shows[:, ::-1]), (7, 8)) == 2
    assert hidden_frames(Tracks(np.full((6, 2), -1), boxes, shows), (7, 8)) == 0
    boxes[1, 0] -= 1  # partly outside: that is why little of it shows
    assert hidden_frames(Tracks(ids, boxes, shows), (7, 8)) == 1
    assert hidden_frames(Tracks(ids, boxes, shows), (6, 8)) == 0


def test_films_are_of_those_who_meet():
    first, second = [0, 0, 10, 10], [[4, 0, 14, 10], [5, 0, 15, 10], [20, 0, 30, 10], [2, 2, 4, 4]]
    boxes = np.array([[first, box, first] for box in second], float)
    ids = np.array([[0, 1, -1]] * 4)
    assert met_frames(Tracks(ids, boxes, np.ones((4, 3))), (40, 40)) == 2  # by .6, not by .5, not at all, the whole
    alone = np.where(ids == 1, -1, ids)
    assert met_frames(Tracks(alone, boxes, np.ones((4, 3))), (40, 40)) == 0


def test_components_are_what_is_connected():
    found = components(picture((8, 8, 3), (20, 9, 4), (30, 30, 0)))
    np.testing.assert_array_equal(found[np.argsort(found[:, 0])], [[5, 5, 11, 11], [16, 5, 24, 13]])
    assert components(picture()).shape == (0, 4)
    assert len(components(picture((8, 8, 3), (13, 8, 3)))) == 1


def test_the_floor_follows_what_does_not_touch_and_bridges_gaps():
    """Two squares that pass each other at a distance; one is missing for two frames."""
    frames, truth = [], []
    for t in range(14):
        places = [(3 + 2 * t, 8, 3), (29 - 2 * t, 22, 3)]
        shown = places[:1] if t in (6, 7) else places
        frames.append(picture(*shown))
        truth.append([[x - 3, y - 3, x + 3, y + 3] for x, y, _ in places])
    there = np.ones((14, 2))
    there[6:8, 1] = 0
    ids = np.tile(np.arange(2), (14, 1))
    found = tracking_metrics(
        [(Tracks(ids, np.array(truth, float), there), track_components(np.stack(frames)))], (32, 32)
    )
    assert (found["mota"], found["idf1"], found["id_switches"], found["count_accuracy"]) == (1.0, 1.0, 0.0, 1.0)
    fast = np.stack([picture((4 + 7 * t, 8, 3)) for t in range(4)])
    assert track_components(fast).ids.max() == 3
    assert track_components(fast, Pace(reach=8.0, velocity_variance=49.0)).ids.max() == 0
    crossing = np.stack([picture((3 + 2 * t, 8, 3), (29 - 2 * t, 9, 3)) for t in range(14)])
    assert (track_components(crossing).ids >= 0).sum(1).min() == 1


def test_frame_by_frame_objects_are_linked_to_the_nearest():
    """Two objects 12 pixels apart move 1 pixel a frame; their numbers and order change in every frame."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(2) for _ in range(8)]
    centres = np.array([[[6 + t, 8.0], [18 + t, 8.0]] for t in range(8)])
    boxes = np.concatenate([centres - 2, centres + 2], -1)
    truth = Tracks(np.tile([0, 1], (8, 1)), boxes, np.ones((8, 2)))
    mixed = Tracks(
        rng.integers(99, size=(8, 2)), np.stack([b[o] for b, o in zip(boxes, orders, strict=True)]), np.ones((8, 2))
    )
    found = tracking_metrics([(truth, relinked(mixed))], (32, 32))
    assert (found["idf1"], found["id_switches"]) == (1.0, 0.0)
    assert relinked(mixed, Pace(reach=0.5)).ids.max() == 15  # everybody is new in every frame
    gone = Tracks(np.full((8, 2), -1), boxes, np.ones((8, 2)))
    assert not (relinked(gone).ids >= 0).any()


@dataclass(frozen=True)
class Told(State):
    ids: torch.Tensor = event(1)
    x: torch.Tensor = event(1)
    speed: torch.Tensor = event(1)


class Teller(WorldModel):
    """Reads one object's place off the frame's first number; believes that it moves on, and loses it after `kept`."""

    name = "teller"

    def __init__(self, kept=100):
        super().__init__(None, Spaces((2,), 1))
        self.kept = kept
        self.anything = torch.nn.Parameter(torch.zeros(()))

    def initial_state(self, batch_shape=(), *, sample=True, generator=None):
        nothing = torch.zeros(*batch_shape, 1)
        return Told(torch.zeros(*batch_shape, 1, dtype=torch.int64), nothing, nothing)

    def predict(self, state, action, *, sample=True, generator=None):
        return Told(state.ids, state.x + state.speed, state.speed)

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None):
        if frame is None:  # (a mask is not looked at)
            lost = state.x > self.kept
            return Told(torch.where(lost, -1, state.ids), state.x, state.speed)
        return Told(torch.full_like(state.ids, 7), frame[..., :1], frame[..., 1:])

    decode = loss = update

    def objects(self, state):
        boxes = torch.cat([state.x - 2, torch.full_like(state.x, 8), state.x + 2, torch.full_like(state.x, 12)], -1)
        return Objects(state.ids >= 0, boxes.unsqueeze(-2), state.ids, (state.ids >= 0).float())


class Line:
    """Windows of one object at x = 5 + 2 t, which the frame tells together with a speed."""

    def __init__(self, speed, steps=12):
        x = 5 + 2 * np.arange(steps, dtype=np.float32)
        shape = (2, steps)
        yes = np.ones(shape, bool)
        first = np.broadcast_to(np.arange(steps) == 0, shape)
        frames = np.broadcast_to(np.stack([x, np.full_like(x, speed)], -1), (*shape, 2))
        boxes = np.stack([x - 2, np.full_like(x, 8), x + 2, np.full_like(x, 12)], -1)
        self.arrays = {
            "frames": frames.copy(), "actions": np.zeros((*shape, 1), np.float32),
            "rewards": np.zeros(shape, np.float32), "terminated": ~yes, "is_first": first, "mask": yes, "valid": yes,
            "ids": np.zeros((*shape, 1), int), "visibility": np.ones((*shape, 1)),
            "boxes": np.broadcast_to(boxes[:, None], (*shape, 1, 4)),
        }  # fmt: skip

    def __len__(self):
        return 2

    def __getitem__(self, indices):
        return {name: array[indices] for name, array in self.arrays.items()}


def test_following_and_predicting_by_hand():
    data = Line(speed=2.0)
    tracks = follow(Teller(), data, chunk=1)
    assert len(tracks) == 2 and (tracks[0].ids == 7).all()
    np.testing.assert_allclose(tracks[1].boxes, data.arrays["boxes"][1])
    right = position_errors(Teller(), data, (32, 64), context=4, horizon=5)
    np.testing.assert_allclose(right["error"], 0, atol=1e-5)
    np.testing.assert_allclose(right["error_still"], 2 * np.arange(1, 6))
    np.testing.assert_allclose(right["error_coasting"], 0, atol=1e-5)
    slow = position_errors(Teller(kept=13.5), Line(speed=1.0), (32, 64), context=4, horizon=5)
    np.testing.assert_allclose(slow["error"][:2], [1, 2])
    np.testing.assert_allclose(slow["kept"], [1, 1, 0, 0, 0])
    assert np.isnan(slow["error"][2:]).all() and np.isnan(slow["error_coasting"][2:]).all()
    np.testing.assert_allclose(slow["error_coasting"][:2], 0, atol=1e-5)  # the frames tell the place rightly
    alone = position_errors(Teller(), Line(speed=2.0), (32, 64), context=1, horizon=3, samples=0)
    np.testing.assert_allclose(alone["error_coasting"], alone["error_still"])
    assert np.isnan(alone["alive"]).all() and (alone["alive_true"] == 1).all()


def test_another_object_in_the_slot_is_not_compared():
    """From the third step on the slot holds somebody else, who is elsewhere; then its first one comes in another."""
    data = Line(speed=2.0)
    ids, boxes, shows = (np.repeat(data.arrays[name], 2, 2).copy() for name in ("ids", "boxes", "visibility"))
    ids[..., 1], shows[..., 1] = -1, 0
    ids[:, 6:, 0], boxes[:, 6:, 0] = 3, boxes[:, 6:, 0] + 20
    ids[:, 8, 1], shows[:, 8, 1] = 0, 1
    data.arrays |= {"ids": ids, "boxes": boxes, "visibility": shows}
    found = position_errors(Teller(), data, (32, 64), context=4, horizon=5)
    np.testing.assert_array_equal(np.isnan(found["error"]), [False, False, True, True, False])
    np.testing.assert_allclose(found["error"][[0, 1, 4]], 0, atol=1e-5)
    np.testing.assert_allclose(found["error_still"][[0, 1, 4]], [2, 4, 10])
    np.testing.assert_allclose(found["alive_true"], [1, 1, 0, 0, 1])
    np.testing.assert_allclose(found["alive"], 1)


class Mortal(Teller):
    """Believes that an object vanishes at every step with probability .4, though it would rather say that it stays."""

    def update(self, state, frame=None, *, mask=None, sample=True, generator=None):
        following = super().update(state, frame)
        if frame is not None or not sample:
            return following
        dies = torch.rand(state.ids.shape, generator=generator) < 0.4
        return replace(following, ids=torch.where(dies, -1, following.ids))


def test_survival_is_measured_from_samples():
    generator = torch.Generator().manual_seed(0)
    found = position_errors(
        Mortal(), Line(speed=2.0), (32, 64), context=4, horizon=4, samples=4000, generator=generator
    )
    np.testing.assert_allclose(found["alive"], 0.6 ** np.arange(1, 5), atol=0.025)
    np.testing.assert_allclose(found["kept"], 1)
    np.testing.assert_allclose(found["alive_true"], 1)
    with pytest.raises(ValueError, match="samples must not be negative, found -1"):
        position_errors(Teller(), Line(speed=2.0), (32, 64), context=4, horizon=4, samples=-1)


class Shown(Teller):
    """Decodes the place and the speed that it has, less one tenth."""

    def decode(self, state):
        mean = torch.cat([state.x, state.speed], -1) - 0.1
        return torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)


def test_filtered_frames_are_compared_where_they_are_seen():
    data = Line(speed=1.0)
    assert filtered_mse(Shown(), data, chunk=1) == pytest.approx(0.01, rel=1e-4)
    data.arrays["frames"][:, 3] = 99.0  # the filter says so, too
    data.arrays["mask"] = data.arrays["mask"].copy()
    data.arrays["mask"][1, 5:] = False
    assert filtered_mse(Shown(), data) == pytest.approx(0.01, rel=1e-3)


class Guesser(Teller):
    """Draws one of two numbers in the first frame, 8 more often; the frames after it deny that."""

    def propose(self, predicted, frame, context_t, *, mask=None, generator=None):
        told = self.update(predicted, frame)
        first = predicted.ids == 0
        drawn = torch.where(torch.rand(first.shape, generator=generator) < 0.6, 8, 7)
        told = replace(told, ids=torch.where(first, drawn, predicted.ids))
        return Proposal(told, torch.where(first | (told.ids == 7), 0.0, -50.0).squeeze(-1), 0.0)

    def encode_context(self, frames, actions, mask, valid, is_first=None):
        return None


def test_of_particles_the_heaviest_speaks():
    data = Line(speed=2.0)
    drawn = torch.Generator().manual_seed(0)
    found = follow(Guesser(), data, num_particles=32, generator=drawn)
    assert all((tracks.ids[1:] == 7).all() for tracks in found)
    np.testing.assert_allclose(found[1].boxes, data.arrays["boxes"][1])
    alone = follow(Guesser(), data, num_particles=1, generator=drawn)
    assert all(len(set(tracks.ids[:, 0])) == 1 for tracks in alone), "a guess that nobody contradicts stays"
    with pytest.raises(ValueError, match="num_particles must be at least 1, found 0"):
        follow(Guesser(), data, num_particles=0)
    with pytest.raises(TypeError, match="need a model with `propose`"):
        follow(Teller(), data, num_particles=2)


def test_following_needs_objects():
    from reverie.world_models import LGSSM, LGSSMConfig

    with pytest.raises(TypeError, match="needs a model with `objects`, found LGSSM"):
        follow(LGSSM(LGSSMConfig(z_dim=1), Spaces((2,), 1)), Line(1.0))


def test_boxes_are_drawn_in_the_colour_of_their_number():
    tracks = Tracks(np.array([[3, -1]]), np.array([[[1.0, 2, 4, 6], [0, 0, 8, 8]]]), np.ones((1, 2)))
    drawn = outlined(np.zeros((1, 8, 8, 3), np.uint8), tracks, 2)[0]
    colour = colour_of(3)
    for row, column in ((4, 2), (12, 8), (4, 8), (8, 2)):
        np.testing.assert_array_equal(drawn[row, column], colour)
    assert (drawn.any(-1)).sum() == 2 * 7 + 2 * 9 - 4 and not drawn[8, 5].any()


def test_every_number_has_a_colour_of_its_own():
    """Neighbours, and those that seven or a Fibonacci number of others lie between; the first ones are bright."""
    colours = np.stack([colour_of(number) for number in range(32)]).astype(float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + 999 * np.eye(32)
    assert apart.min() > 30
    assert (colours[:8].max(-1) == 255).all()
    np.testing.assert_allclose(colours[:3], [(255, 215, 60), (90, 200, 255), (255, 110, 180)], atol=45)
