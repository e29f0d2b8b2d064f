"""Checkpoints: what is saved is what is loaded, and every damaged folder is refused by name and left as it is."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from reverie.world_models import KVAE, LGSSM, MODELS, LGSSMConfig, Spaces, register
from reverie.world_models.checkpoints import PRETRAINED, build, load, save
from safetensors.torch import load_file, save_file
from tiny_training import kvae


@pytest.fixture
def folder(tmp_path):
    return save(kvae(), tmp_path / "model", extra={"seed": 3})


def edit(folder, **changes) -> None:
    path = folder / "config.json"
    description = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del description[key]
        else:
            description[key] = value
    path.write_text(json.dumps(description))


def test_round_trip(folder):
    model, again = kvae(), load(folder)
    assert isinstance(again, KVAE) and not again.training
    assert again.config == model.config and again.spaces == model.spaces
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert json.loads((folder / "config.json").read_text())["extra"] == {"seed": 3}
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_from_pretrained_checks_the_kind(folder):
    assert isinstance(KVAE.from_pretrained(folder), KVAE)
    with pytest.raises(TypeError, match="holds a KVAE, not a LGSSM"):
        LGSSM.from_pretrained(folder)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["A"]
    save_file(tensors, folder / "model.safetensors")


def add_tensor(folder):
    tensors = load_file(folder / "model.safetensors") | {"surplus": torch.zeros(2)}
    save_file(tensors, folder / "model.safetensors")


def reshape_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["A"] = tensors["A"][:1]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (truncate, ValueError, r"model\.safetensors is damaged or not a safetensors file"),
        (drop_tensor, ValueError, r"missing tensors \['A'\]"),
        (add_tensor, ValueError, r"unknown tensors \['surplus'\]"),
        (reshape_tensor, ValueError, r"A: found \(1, 3, 3\), expected \(2, 3, 3\)"),
        (lambda f: (f / "model.safetensors").unlink(), ValueError, r"model\.safetensors is missing"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "neither a folder .* nor a pretrained model"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "not a checkpoint's config.json"),
        (lambda f: (f / "config.json").write_text("[1]"), ValueError, "not a checkpoint's config.json"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, "not a checkpoint's config.json"),
        (lambda f: edit(f, format_version=9), ValueError, "format version 9, this reverie reads 1"),
        (lambda f: edit(f, spaces=None), ValueError, r"lacks \['spaces'\]"),
        (lambda f: edit(f, model="srnn-9"), ValueError, "holds a 'srnn-9' model; known are .*kvae.*--import"),
        (lambda f: edit(f, model="lgssm"), ValueError, "which a 'lgssm' model does not have"),
        (lambda f: edit(f, config={"z_dim": 3, "depth": 4}), ValueError, r"sets \['depth'\]"),
        (lambda f: edit(f, config={"z_dim": 0}), ValueError, "z_dim must be at least 1"),
        (lambda f: edit(f, spaces={"frame_shape": [1, 4], "action_dim": 1}), ValueError, "frame_shape must be"),
        (lambda f: edit(f, spaces={"frame_shape": [4]}), ValueError, "config.json describes no spaces.*action_dim"),
        (lambda f: edit(f, spaces={"frame_shape": [4], "action_dim": 1, "up": 1}), ValueError, "no spaces.*'up'"),
        (lambda f: edit(f, spaces=[1]), ValueError, "not a checkpoint's config.json"),
        (lambda f: edit(f, config=[1]), ValueError, "not a checkpoint's config.json"),
        (lambda f: edit(f, config={"z_dim": "3"}), ValueError, "z_dim to '3', expected an integer"),
        (lambda f: edit(f, config={"z_dim": 2.5}), ValueError, "z_dim to 2.5, expected an integer"),
        (lambda f: edit(f, config={"z_dim": True}), ValueError, "z_dim to True, expected an integer"),
        (lambda f: edit(f, config={"warmup": "no"}), ValueError, "warmup to 'no', expected a number"),
        (lambda f: edit(f, config={"hidden": 25}), ValueError, "hidden to 25, expected a list, each entry an integer"),
        (lambda f: edit(f, config={"hidden": [0], "network": "mlp"}), ValueError, "at least one unit each"),
        (lambda f: edit(f, config={"hidden": [], "network": "mlp"}), ValueError, "at least one hidden layer"),
        (lambda f: edit(f, config={"channels": []}), ValueError, "at least one convolution"),
    ],
)
def test_damaged_folders_are_refused_and_kept(folder, damage, error, message):
    damage(folder)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(error, match=message):
        load(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_full_disk_is_explained_and_keeps_what_was_there(folder, name):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"disk is full; nothing that was saved before is lost.*{name}"):
        save(kvae(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_limit_on_the_size_of_files_is_explained(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def limited(descriptor):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "fsync", limited)
    with pytest.raises(OSError, match=r"larger than files may be here; nothing .* lost. .*ulimit.*model.safetensors"):
        save(kvae(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_device_that_is_not_there_is_refused(folder, monkeypatch):
    with pytest.raises(ValueError, match="found device 'gpu', expected cpu, cuda or cuda:N"):
        load(folder, "gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"found device 'cuda:1', but torch .* sees 1 CUDA devices here; use cpu"):
        load(folder, "cuda:1")


def test_a_checkpoint_can_be_read_by_whom_the_umask_allows(folder):
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_unknown_names_list_what_there_is():
    with pytest.raises(FileNotFoundError, match="pretrained are: "):
        load("no-such-model")
    with pytest.raises(ValueError, match=r"unknown model 'kvea'; known are .*kvae"):
        build("kvea", {}, Spaces((2,), 1))


def test_registering():
    class Mine(LGSSM):
        pass

    register("mine", Mine)
    try:
        assert MODELS["mine"] is Mine and Mine.name == "mine"
        register("mine", Mine)  # twice is harmless: modules may be imported again
        with pytest.raises(ValueError, match="the name 'mine' is taken"):
            register("mine", type("Other", (LGSSM,), {}))
        with pytest.raises(TypeError, match="subclass of WorldModel"):
            register("number", int)
    finally:
        del MODELS["mine"]


def test_a_model_of_ones_own_comes_back(tmp_path):
    class Own(LGSSM):
        pass

    register("own-lgssm", Own)
    try:
        assert type(load(save(Own(LGSSMConfig(z_dim=2), Spaces((2,), 1)), tmp_path))) is Own
    finally:
        del MODELS["own-lgssm"]
    with pytest.raises(ValueError, match="'own-lgssm' model"):
        load(tmp_path)


@pytest.mark.parametrize("path", sorted(PRETRAINED.glob("*/config.json")), ids=lambda path: path.parent.name)
def test_shipped_models_load_and_are_small(path):
    model = load(path.parent.name)
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 2 * 2**20
    card = (path.parent / "README.md").read_text()
    assert "reverie " in card and "results/" in card  # the command that made it, and where its numbers are
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
