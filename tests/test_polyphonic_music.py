"""Pianorolls: reading the published files, refusing others, and the experiment end to end on tiny ones."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from reverie.scripts.polyphonic import FILES, Transposed, read_music
from reverie.scripts.reproduce import polyphonic_music as experiment
from reverie.world_models import GRU, Batch, GRUConfig, Spaces
from reverie.world_models.training import read_history

SMALL = {"network": "mlp", "hidden": (6,)}


def music_arrays(seed=0):
    """Streams in the published order, and three pieces."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, chunks in (("train", 3), ("valid", 2)):
        streams = (rng.random((16, 100 * chunks, 88)) < 0.05).astype(np.float32)
        x = streams.reshape(16, chunks, 100, 88).transpose(1, 0, 2, 3).reshape(-1, 100, 88)
        shifted = np.concatenate([(rng.random((16, 1, 88)) < 0.05).astype(np.float32), streams[:, :-1]], 1)
        u = shifted.reshape(16, chunks, 100, 88).transpose(1, 0, 2, 3).reshape(-1, 100, 88)
        arrays |= {f"x_{split}": x, f"u_{split}": u}
    lengths = np.array([9, 14, 5])
    mask = (np.arange(14) < lengths[:, None]).astype(np.float32)
    x = (rng.random((3, 14, 88)) < 0.05).astype(np.float32)
    x[mask == 0] = np.nan
    u = np.concatenate([(rng.random((3, 1, 88)) < 0.05).astype(np.float32), x[:, :-1]], 1)
    return arrays | {"x_test": x, "u_test": u, "mask_test": mask}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(FILES.values()):
        np.savez(tmp_path / "data" / name, **music_arrays(seed))
    return tmp_path / "data"


def test_the_splits_are_the_files(folder):
    arrays, music = music_arrays(), read_music(folder, "JSB")
    assert (len(music.train), len(music.validation), len(music.test)) == (48, 32, 3)
    batch = music.train[np.arange(48)]
    np.testing.assert_array_equal(batch["frames"], arrays["x_train"])
    assert batch["is_first"][:16, 0].all() and batch["is_first"].sum() == 16
    assert batch["valid"].all() and batch["mask"].all()
    np.testing.assert_array_equal(music.test.lengths, [9, 14, 5])
    piece = music.test.cut(np.array([2, 0]))
    assert piece["frames"].shape == (2, 9, 88) and not piece["is_first"].any()
    np.testing.assert_array_equal(music.test.before, arrays["u_test"][:, 0])
    np.testing.assert_array_equal(piece["frames"][0, :5], arrays["x_test"][2, :5])
    assert not piece["frames"][0, 5:].any() and not piece["mask"][0, 5:].any()


def test_transposed_streams_are_shifted_note_by_note(folder):
    streams = read_music(folder, "JSB").train
    varied, found = Transposed(streams, 3, seed=1), set()
    for epoch in range(20):
        shifted = varied.of_epoch(epoch)
        np.testing.assert_array_equal(shifted.arrays["is_first"], streams.arrays["is_first"])
        for stream in range(0, 16, 5):
            chunks = np.arange(stream, 48, 16)
            expected = {}
            for by in range(-3, 4):
                expected[by] = np.zeros((3, 101, 88))
                for key in range(88):
                    if 0 <= key + by < 88:
                        expected[by][:, 0, key + by] = streams.before[chunks, key]
                        expected[by][:, 1:, key + by] = streams[chunks]["frames"][..., key]
            ours = np.concatenate([shifted.before[chunks, None], shifted[chunks]["frames"]], 1)
            (by,) = (by for by, notes in expected.items() if np.array_equal(notes, ours))
            found.add((stream, by))
    assert {by for _, by in found} == set(range(-3, 4)) and len(found) > 20
    again = Transposed(streams, 3, seed=1).of_epoch(19)
    np.testing.assert_array_equal(again.arrays["frames"], shifted.arrays["frames"])
    other = Transposed(streams, 3, seed=2).of_epoch(19)
    assert not np.array_equal(other.arrays["frames"], shifted.arrays["frames"])


DAMAGES = {
    "lacks": (lambda a: a.pop("mask_test"), "lacks mask_test"),
    "shuffled": (lambda a: a.update(x_train=a["x_train"][::-1]), r"chunk i \+ 16 of x_train does not continue"),
    "not 16": (lambda a: a.update(x_valid=a["x_valid"][:-1]), r"expected both \(N, 100, 88\) with N a multiple of 16"),
    "shape": (lambda a: a.update(x_train=a["x_train"][..., :80]), r"x_train must be a pianoroll \(N, T, 88\)"),
    "values": (lambda a: a.update(x_train=2 * a["x_train"]), "zeros and ones"),
    "holes": (lambda a: a["mask_test"].__setitem__((1, 3), 0), "1 for the steps of a piece and 0 behind"),
    "mask": (
        lambda a: a.update(mask_test=a["mask_test"][:, :-1]),
        r"have shapes \(3, 14, 88\), \(3, 14, 88\) and \(3, 13\)",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_other_files_are_refused(folder, case):
    damage, message = DAMAGES[case]
    arrays = music_arrays()
    damage(arrays)
    np.savez(folder / FILES["JSB"], **arrays)
    with pytest.raises(ValueError, match=message):
        read_music(folder, "JSB")


def test_missing_and_damaged_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; expected one with jsb_raw"):
        read_music(tmp_path / "nowhere", "JSB")
    (folder / FILES["MuseData"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"muse_raw\S+ is missing \(MuseData\); \S+ holds jsb_raw"):
        read_music(folder, "MuseData")
    (folder / FILES["JSB"]).write_bytes((folder / FILES["JSB"]).read_bytes()[:500])
    with pytest.raises(ValueError, match="is damaged or no npz file"):
        read_music(folder, "JSB")
    with pytest.raises(ValueError, match="found set 'Bach', expected one of JSB"):
        read_music(folder, "Bach")


def test_piece_bounds_are_those_of_each_piece_alone(folder):
    torch.manual_seed(0)
    model, pieces = GRU(GRUConfig(**SMALL, h_dim=4), Spaces((88,), 1)), read_music(folder, "JSB").test
    bounds = experiment.piece_bounds(model, pieces, group=2)
    for i, length in enumerate(pieces.lengths):
        alone = {name: array[:, :length] for name, array in pieces[np.array([i])].items()}
        batch = Batch.from_numpy(alone, model.spaces)
        states = model.observe(torch.cat([torch.as_tensor(pieces.before[i])[None, None], batch.frames], 1),
                               torch.zeros(1, length + 1, 1))  # fmt: skip
        expected = model.decode(states).log_prob(torch.cat([batch.frames[:, :1], batch.frames], 1))[:, 1:].sum()
        assert bounds[i] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.fixture
def args(folder, tmp_path):
    models = ("srnn-smooth-res", "srnn-filt", "vrnn", "gru")
    made = experiment.Args(
        data=folder, models=models, seeds=(0, 1), d_dim=4, z_dim=2, units=6, out=tmp_path / "out"
    )  # fmt: skip
    return replace(made, json=tmp_path / "result.json", training=replace(made.training, epochs=2))


def test_the_experiment_measures_its_keys_and_goes_on(args):
    experiment.main(replace(args, sets=("JSB",), models=("srnn-smooth-res", "gru"), validate=True))
    assert not args.json.exists() and not (args.out / "measured").exists()
    experiment.main(replace(args, sets=("JSB",)))
    experiment.main(replace(args, sets=("Piano-midi",), models=("srnn-filt",)))
    metrics = json.loads(args.json.read_text())["metrics"]
    chosen, other = sorted(
        ("srnn-smooth-res", "srnn-filt"), key=lambda name: -metrics[f"validation/JSB/{name}"]["values"][0]
    )
    assert "Piano-midi/gru" not in metrics and len(metrics["Piano-midi/srnn-filt"]["values"]) == 2
    for name in (f"JSB/{chosen}", f"JSB/{other}", "JSB/vrnn", "JSB/gru"):
        for prefix in ("", "per_step/", "validation/"):
            found = metrics[prefix + name]
            assert len(found["values"]) == (2 if name == f"JSB/{chosen}" else 1) and found["mean"] < 0
    assert metrics["JSB"] == metrics[f"JSB/{chosen}"]
    assert metrics["Piano-midi"] == metrics["Piano-midi/srnn-filt"]
    gap = metrics["JSB"]["values"][0] - metrics["JSB/gru"]["mean"]
    assert metrics["gap/srnn-gru/JSB"]["values"] == pytest.approx([gap]) and "gap/srnn-gru/Piano-midi" not in metrics
    folder = args.out / "JSB" / "gru" / "seed-0"
    best = max(record["validation_elbo_per_frame"] for record in read_history(folder))
    assert metrics["validation/JSB/gru"]["mean"] == best


def test_the_models_are_the_papers_variants(args):
    found = {name: experiment.model_of(args, experiment.Run("JSB", name, 0)) for name in experiment.PLAIN}
    options = {
        name: (config["inference"], config["residual"]) for name, (kind, config) in found.items() if kind == "srnn"
    }
    assert options == {
        "srnn-smooth-res": ("smoothing", True),
        "srnn-smooth": ("smoothing", False),
        "srnn-filt-res": ("filtering", True),
        "srnn-filt": ("filtering", False),
    }
    assert experiment.model_of(args, experiment.Run("JSB", "srnn-smooth-transposed", 0)) == found["srnn-smooth"]
    assert found["vrnn"][0] == "vrnn" and found["gru"][0] == "gru" and found["gru"][1]["h_dim"] == 4


def test_a_transposing_run_has_more_epochs_before_the_rate_falls(args):
    args = replace(args, transposed_factor=3, training=replace(args.training, epochs=20, decay_after=15))
    found = [experiment.training_of(args, experiment.Run("JSB", f"srnn-filt{end}", 4)) for end in ("", "-transposed")]
    assert found == [replace(args.training, seed=4), replace(args.training, seed=4, epochs=60, decay_after=55)]


def test_each_set_has_its_dropout_unless_told_otherwise(args):
    def dropouts(args):
        runs = [experiment.Run(name, "gru", 0) for name in experiment.SETS]
        return {run.music: experiment.model_of(args, run)[1]["dropout"] for run in runs}

    assert dropouts(args) == experiment.DROPOUT and experiment.DROPOUT["Piano-midi"] > 0
    assert set(dropouts(replace(args, dropout=0.1)).values()) == {0.1}


def test_every_model_has_a_run_before_the_best_variant_has_more(args, monkeypatch):
    """A later call that asks for other models gives more runs only to what it asks for."""
    bounds, order = {"srnn-smooth-res": -9.0, "srnn-filt": -8.0, "srnn-filt-transposed": -7.0}, []

    def train(args, run, music):
        order.append(tuple(run))
        folder = run.folder(args)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").touch()

    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(experiment, "fits", lambda args, run: True)
    monkeypatch.setattr(experiment, "_best", lambda folder: bounds.get(folder.parent.name, 0.0))
    args = replace(args, stages=("train",), validate=True, seeds=(0, 1, 2))
    experiment.main(args)
    firsts = [(name, model, 0) for name in args.sets for model in args.models]
    assert order == firsts + [(name, "srnn-filt", seed) for name in args.sets for seed in (1, 2)]
    order.clear()
    experiment.main(replace(args, models=(*args.models, "transposed")))
    more = [("srnn-filt", 1), ("srnn-filt", 2), *(("srnn-filt-transposed", seed) for seed in (0, 1, 2))]
    assert order == firsts + [(name, *run) for name in args.sets for run in more]
    bounds["srnn-filt-transposed"] = -8.5
    order.clear()
    experiment.main(replace(args, sets=("JSB",), models=("srnn-filt", "transposed")))
    assert order == [("JSB", "srnn-filt", 0), *(("JSB", *run) for run in more[:3])]
    order.clear()
    experiment.main(replace(args, sets=("JSB",), models=("gru", "srnn-smooth-res")))
    assert order == [("JSB", "gru", 0), ("JSB", "srnn-smooth-res", 0)]


def test_the_headline_is_chosen_by_the_first_seed():
    run, piece = experiment.Run, {"per_step": -1.0}
    found = {
        run("JSB", "srnn-filt", 0): piece | {"per_piece": -6.0, "validation": -7.0},
        run("JSB", "srnn-filt", 1): piece | {"per_piece": -5.0, "validation": -1.0},
        run("JSB", "srnn-smooth", 0): piece | {"per_piece": -6.5, "validation": -6.0},
        run("JSB", "gru", 0): piece | {"per_piece": -7.0, "validation": -2.0},
    }
    metrics = experiment.collected(found, 0)
    assert metrics["JSB"] == [-6.5] and metrics["gap/srnn-gru/JSB"] == [0.5]
    assert experiment.collected(found, 1)["JSB"] == [-6.0, -5.0]
    assert "gap/srnn-gru/JSB" not in experiment.collected(found, 1)
    assert "JSB/transposed" not in metrics
    for validation, headline in ((-6.1, -6.5), (-5.9, -4.0)):
        shifted = piece | {"per_piece": -4.0, "validation": validation}
        metrics = experiment.collected(found | {run("JSB", "srnn-smooth-transposed", 0): shifted}, 0)
        assert metrics["JSB"] == [headline] and metrics["gap/srnn-gru/JSB"] == [0.5]
        assert metrics["JSB/transposed"] == [-4.0] and metrics["validation/JSB/transposed"] == [validation]


def test_runs_and_measurements_belong_to_their_data_and_settings(args, folder, tmp_path, capsys):
    args = replace(args, sets=("JSB",), models=("gru",), seeds=(0,))
    experiment.main(args)
    result = json.loads(args.json.read_text())
    assert str(tmp_path) not in args.json.read_text() and result["config"]["data"] == "data"
    assert "stages" not in result["config"]
    arrays, path = music_arrays(), folder / FILES["JSB"]
    np.savez(path, **arrays | {"u_test": 1 - arrays["u_test"]})
    with pytest.raises(ValueError, match=r"JSB-gru-0\.json was measured with other settings \(test\)"):
        experiment.main(args)
    np.savez(path, **music_arrays(seed=5))
    with pytest.raises(ValueError, match=r"holds a run with other settings: \['extra'\] differ"):
        experiment.main(args)
    np.savez(path, **arrays)
    capsys.readouterr()
    with pytest.raises(ValueError, match="holds no finished run with these settings"):
        experiment.main(replace(args, d_dim=5, stages=("evaluate",)))
    assert "left out, as measured with other settings: measured/JSB-gru-0" in capsys.readouterr().err
    shutil.rmtree(args.out / "JSB")  # and trained anew: another run than the one that was measured
    again = replace(args, training=replace(args.training, learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"was measured with other settings \(weights\)"):
        experiment.main(again)


def test_a_transposing_run_is_another_run(args):
    args = replace(
        args, sets=("JSB",), models=("srnn-filt", "transposed"), seeds=(0,), transpose=2, transposed_factor=1
    )
    experiment.main(args)
    metrics = json.loads(args.json.read_text())["metrics"]
    assert metrics["JSB/transposed"] == metrics["JSB/srnn-filt-transposed"] != metrics["JSB/srnn-filt"]
    with pytest.raises(ValueError, match=r"holds a run with other settings: \['extra'\] differ"):
        experiment.main(replace(args, transpose=3))
    experiment.main(replace(args, transpose=3, stages=("evaluate",)))
    others = json.loads(args.json.read_text())["metrics"]
    assert others["JSB/srnn-filt"] == metrics["JSB/srnn-filt"] and "JSB/srnn-filt-transposed" not in others
    folders = [args.out / "JSB" / name / "seed-0" for name in ("srnn-filt", "srnn-filt-transposed")]
    histories = [[r["elbo_per_frame"] for r in read_history(folder)] for folder in folders]
    assert histories[0] != histories[1]


def test_mistaken_options(args):
    with pytest.raises(ValueError, match="--transpose must be 1 to 87 semitones, found 88"):
        replace(args, transpose=88)
    with pytest.raises(ValueError, match="--transposed-factor must be at least 1, found 0"):
        replace(args, transposed_factor=0)
    with pytest.raises(ValueError, match=r"--models knows .*found rnn"):
        replace(args, models=("rnn",))
    with pytest.raises(ValueError, match="training needs carry_state and batch_size 16"):
        replace(args, training=replace(args.training, carry_state=False))
    with pytest.raises(ValueError, match="holds no finished run"):
        experiment.main(replace(args, sets=("JSB",), stages=("evaluate",)))
