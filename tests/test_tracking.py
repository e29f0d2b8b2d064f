"""Tracking metrics: cases counted by hand, and identities beside the search over all assignments."""

import itertools

import numpy as np
import pytest
from reverie.world_models.evaluation.tracking import Tracks, assigned, centres_of, tracking_metrics

SIZE = (32, 32)


def boxes_at(centres, half=2.0):
    centres = np.asarray(centres, dtype=float)
    return np.concatenate([centres - half, centres + half], -1)


def straight(count=2, steps=10, ids=None):
    """Objects side by side that move down: x = 6, 16, 26, y = 4 + 2 t."""
    centres = np.stack([np.array([[6 + 10 * k, 4 + 2 * t] for k in range(count)]) for t in range(steps)])
    names = np.tile(np.arange(count) if ids is None else ids, (steps, 1))
    return Tracks(names, boxes_at(centres), np.ones((steps, count)))


def changed(tracks, **fields):
    parts = {name: getattr(tracks, name).copy() for name in ("ids", "boxes", "visibility")}
    for name, (index, value) in fields.items():
        parts[name][index] = value
    return Tracks(**parts)


def test_the_truth_is_perfect_whatever_its_names_and_order():
    truth = straight(3)
    other = straight(3, ids=[30, 10, 20])
    shuffled = Tracks(*(part[:, [2, 0, 1]] for part in (other.ids, other.boxes, other.visibility)))
    found = tracking_metrics([(truth, shuffled)], SIZE)
    assert found == {
        "count_accuracy": 1.0, "mota": 1.0, "motp": 0.0, "idf1": 1.0, "id_switches": 0.0,
        "id_switches_per_sequence": 0.0,
    }  # fmt: skip


def test_misses_and_false_alarms_by_hand():
    """20 true objects; one is missed 3 times, and something else is seen twice."""
    truth = straight()
    predicted = changed(straight(3), ids=(np.s_[:, 2], -1))
    predicted = changed(predicted, ids=(np.s_[4:7, 1], -1))
    predicted = changed(predicted, ids=(np.s_[0:2, 2], 9))
    found = tracking_metrics([(truth, predicted)], SIZE)
    assert found["mota"] == pytest.approx(1 - 5 / 20)
    assert found["count_accuracy"] == pytest.approx(5 / 10)
    assert found["idf1"] == pytest.approx(2 * 17 / (20 + 19))
    assert found["id_switches"] == 0


def test_swapped_identities_by_hand():
    """Two tracks exchange their numbers after 6 of 10 frames: two switches, and 12 objects identified."""
    truth = straight()
    predicted = changed(straight(), ids=(np.s_[6:], [1, 0]))
    found = tracking_metrics([(truth, predicted)], SIZE)
    assert (found["id_switches"], found["mota"], found["idf1"]) == (2.0, pytest.approx(0.9), pytest.approx(0.6))
    # A number that changes while nobody looks is a switch, too.
    hidden = changed(predicted, ids=(np.s_[5:7], -1))
    assert tracking_metrics([(truth, hidden)], SIZE)["id_switches"] == 2.0


def test_a_match_is_kept_while_it_holds():
    """A second guess that comes nearer does not take over, so that nothing switches."""
    truth = straight(1, steps=4)
    predicted = straight(2, steps=4)
    near = truth.boxes[:, 0] + 2.0
    predicted = changed(predicted, boxes=(np.s_[:, 0], near))
    predicted = changed(predicted, boxes=(np.s_[2:, 1], truth.boxes[2:, 0]))
    predicted = changed(predicted, ids=(np.s_[:2, 1], -1))
    found = tracking_metrics([(truth, predicted)], SIZE)
    assert found["id_switches"] == 0 and found["motp"] == pytest.approx(2 * np.sqrt(2))
    assert found["mota"] == pytest.approx(1 - 2 / 4)


def test_what_hardly_shows_may_be_found_or_not():
    truth = changed(straight(), visibility=(np.s_[3:6, 1], 0.1))
    without = changed(straight(), ids=(np.s_[3:6, 1], -1))
    for predicted in (straight(), without):
        found = tracking_metrics([(truth, predicted)], SIZE)
        assert (found["mota"], found["idf1"], found["count_accuracy"]) == (1.0, 1.0, 1.0)
    gone = changed(straight(), visibility=(np.s_[3:6, 1], 0.0))
    assert tracking_metrics([(gone, straight())], SIZE)["count_accuracy"] == pytest.approx(0.7)
    assert tracking_metrics([(gone, changed(straight(), visibility=(np.s_[3:6, 1], 0.05)))], SIZE)["mota"] == 1.0


def test_distance_decides_and_only_what_is_inside_counts():
    truth = straight(1)
    for shift, mota in ((3.9, 1.0), (4.1, -1.0)):
        moved = changed(truth, boxes=(np.s_[:], truth.boxes + np.array([shift, 0, shift, 0])))
        assert tracking_metrics([(truth, moved)], SIZE)["mota"] == mota
    np.testing.assert_allclose(centres_of(np.array([-6.0, 4.0, 2.0, 8.0]), SIZE), [1.0, 6.0])


def test_identities_beside_all_assignments():
    rng = np.random.default_rng(0)
    truth = Tracks(
        np.tile(np.arange(3), (8, 1)), boxes_at(rng.uniform(4, 28, (8, 3, 2))), np.ones((8, 3))
    )  # fmt: skip
    names = np.stack([rng.permutation(3) for _ in range(8)])
    predicted = Tracks(names, truth.boxes + rng.normal(0, 1.5, truth.boxes.shape), truth.visibility)
    centres = [centres_of(item.boxes, SIZE) for item in (truth, predicted)]
    best = 0
    for order in itertools.permutations(range(3)):
        shared = 0
        for t, k in itertools.product(range(8), range(3)):
            j = list(names[t]).index(order[k])
            shared += np.linalg.norm(centres[0][t, k] - centres[1][t, j]) <= 4.0
        best = max(best, shared)
    assert tracking_metrics([(truth, predicted)], SIZE)["idf1"] == pytest.approx(2 * best / 48)


def test_assignment_takes_as_many_as_it_can():
    distances = np.array([[0.0, 1.0], [3.0, 9.0]])
    assert sorted(assigned(distances, 4.0)) == [(0, 1), (1, 0)]
    assert assigned(np.full((2, 3), 5.0), 4.0) == [] and assigned(np.zeros((0, 3)), 4.0) == []


def test_nothing_to_find():
    nobody = changed(straight(), ids=(np.s_[:], -1))
    found = tracking_metrics([(nobody, nobody)], SIZE)
    assert (found["count_accuracy"], found["mota"], found["idf1"]) == (1.0, 1.0, 1.0) and np.isnan(found["motp"])
    assert tracking_metrics([(nobody, straight())], SIZE)["mota"] == 0.0


def test_mistakes_say_what_was_found():
    with pytest.raises(ValueError, match="equally long, found 10 and 9 frames"):
        tracking_metrics([(straight(), straight(steps=9))], SIZE)
    with pytest.raises(ValueError, match="at least one sequence"):
        tracking_metrics([], SIZE)
    with pytest.raises(ValueError, match=r"boxes \(T, M, 4\)"):
        Tracks(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))
