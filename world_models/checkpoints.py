"""Checkpoints: a folder with `config.json` and `model.safetensors`.

`config.json` holds the registry name of the model, the fields of its config dataclass, the spaces and the format
version. It names no code and nothing is unpickled; loading is strict. Files are written beside their final names and
renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from .batch import Spaces

if TYPE_CHECKING:
    from .base import WorldModel

FORMAT_VERSION = 1
PRETRAINED = Path(__file__).parent / "pretrained"


def save(model: WorldModel, folder: str | os.PathLike, *, extra: dict[str, Any] | None = None) -> Path:
    """Write `model` to `folder` and return it.

    Args:
        extra: further facts for people and evaluators (data, seed, metrics); loading ignores them.

    Raises:
        OSError: if the disk is full or cannot be written; what was there is still there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "config": dataclasses.asdict(model.config),
        "spaces": model.spaces.to_json(),
        "extra": extra or {},
    }
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config)
    return folder


def load(name_or_path: str | os.PathLike, device: torch.device | str = "cpu") -> WorldModel:
    """Load a checkpoint folder, or a pretrained model by name, in evaluation mode.

    Raises:
        FileNotFoundError: neither a folder with a checkpoint nor a pretrained name.
        ValueError: a damaged or foreign file, an unknown model, config fields that do not fit, missing or surplus
            tensors or wrong shapes; the text names the file and says what was found and expected. A device that is
            not there.
    """
    from . import MODELS

    device = usable_device(device)
    folder = resolve(name_or_path)
    description = read_config(folder)
    name = description["model"]
    if name not in MODELS:
        raise ValueError(
            f"{folder / 'config.json'} holds a {name!r} model; known are {', '.join(sorted(MODELS))}. "
            "For a model of your own, import the module that registers it first (--import my_module)."
        )
    try:
        spaces = Spaces(**description["spaces"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} describes no spaces of a model: {error}") from error
    model = build(name, description["config"], spaces, source=folder / "config.json")
    load_tensors(model, folder / "model.safetensors")
    return model.to(device).eval()


def load_tensors(model: WorldModel, path: Path) -> None:
    """Give `model` the tensors of a file, which must be its own: no fewer, no more, and of the same shapes.

    Raises:
        ValueError: otherwise, or for a missing or damaged file.
    """
    tensors = read_safetensors(path)
    expected = model.state_dict()
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{key}: found {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or surplus or wrong:
        raise ValueError(
            f"{path} does not fit the {model.name!r} model in its config.json: missing tensors {missing}, "
            f"unknown tensors {surplus}, wrong shapes {wrong}. Use the weights that were saved with this config."
        )
    model.load_state_dict(tensors, strict=True, assign=False)


def usable_device(device: torch.device | str) -> torch.device:
    """The device of this name.

    Raises:
        ValueError: if there is no such kind of device, or none of it here.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"found device {device!r}, expected cpu, cuda or cuda:N") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"found device {device!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices "
            "here; use cpu, or install a driver and a CUDA build of torch"
        )
    return found


def build(name: str, config: dict[str, Any], spaces: Spaces, *, source: object = "the config") -> WorldModel:
    """A fresh model from a registry name and the fields of its config.

    Raises:
        ValueError: for an unknown model, or fields that its config does not have or does not accept.
    """
    from . import MODELS

    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(sorted(MODELS))}")
    fields = {item.name for item in dataclasses.fields(MODELS[name].Config)}
    unknown = sorted(config.keys() - fields)
    if unknown:
        raise ValueError(f"{source} sets {unknown}, which a {name!r} model does not have; it has {sorted(fields)}")
    _check_types(MODELS[name].Config, config, source)
    as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return MODELS[name](MODELS[name].Config(**as_tuples), spaces)


_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def _check_types(config_class: type, values: dict[str, Any], source: object) -> None:
    """Refuse values of another type than the field's, where that is a simple one or a tuple of such."""
    try:
        types = typing.get_type_hints(config_class)
    except NameError:  # annotations that only a type checker can see, in a model of one's own
        return
    for name, value in values.items():
        if types[name] in _KINDS:
            kind, fits, wanted = types[name], _is_a(value, types[name]), _KINDS[types[name]]
        elif typing.get_origin(types[name]) is tuple and set(typing.get_args(types[name])[1:]) == {...}:
            kind = typing.get_args(types[name])[0]
            fits = isinstance(value, list | tuple) and all(_is_a(item, kind) for item in value)
            wanted = f"a list, each entry {_KINDS.get(kind, kind)}"
        else:
            continue
        if not fits:
            raise ValueError(f"{source} sets {name} to {value!r}, expected {wanted}")


def _is_a(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def resolve(name_or_path: str | os.PathLike) -> Path:
    """The folder of a checkpoint: a path, or the name of a pretrained model."""
    folder = Path(name_or_path)
    if (folder / "config.json").is_file():
        return folder
    if (PRETRAINED / folder.name / "config.json").is_file() and folder.name == str(name_or_path):
        return PRETRAINED / folder.name
    shipped = sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))
    raise FileNotFoundError(
        f"{name_or_path} is neither a folder with config.json and model.safetensors nor a pretrained model; "
        f"pretrained are: {', '.join(shipped) or 'none'}"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint, checked for its format version and keys."""
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
        version = description["format_version"]
        keys = {"model", "config", "spaces"} - description.keys()
        {**description.get("config", {}), **description.get("spaces", {})}  # TypeError unless both are objects
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a checkpoint's config.json ({error!r})") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this reverie reads {FORMAT_VERSION}; "
            "install the version that wrote it, or train again"
        )
    if keys:
        raise ValueError(f"{path} lacks {sorted(keys)}; it is not a complete checkpoint's config.json")
    return description


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file; a missing or damaged one is named in the error."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; a checkpoint needs config.json and model.safetensors in one folder")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); restore it or train again") from error


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write `tensors` to `path`, whole or not at all."""
    # Convolution weights, and so their moments, are in channels-last memory, which the format does not know.
    _write_atomically(path, to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    _write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _write_atomically(path: Path, data: bytes) -> None:
    """Write beside the final name, force it to the disk, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with explained_full_disk(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def explained_full_disk(path: Path) -> Iterator[None]:
    """Say what a full disk, or a limit on the size of files, means to whoever trains, where `path` meets one."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found, remedy = "the disk is full", "Free some space"
        elif error.errno == errno.EFBIG:
            found = "the file is larger than files may be here"
            remedy = "Raise the limit (`ulimit -f unlimited`) or write to a file system that takes larger files,"
        else:
            raise
        told = f"{found}; nothing that was saved before is lost. {remedy} and go on (with --resume)"
        raise OSError(error.errno, told, str(path)) from error
