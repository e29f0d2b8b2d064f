"""The ``reverie`` command: finds the verb, reads its options, and turns mistakes into one line that helps.

Nothing heavy is imported here: a verb's module is imported when that verb runs, so ``reverie --help`` answers at once.
"""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from .dispatch import Verb, run_module, unknown

VERBS = {
    "envs": Verb("reverie.scripts.envs", "the table of environments: id, frame, actions, state, task", "reverie envs"),
    "preview": Verb(
        "reverie.scripts.preview", "a short video of an environment", "reverie preview reverie/Pendulum-v0"
    ),
    "play": Verb(
        "reverie.scripts.play", "steer an environment from the keyboard", "reverie play reverie/BouncingBallThrust-v0"
    ),
    "collect": Verb(
        "reverie.scripts.collect",
        "rollouts of an environment to a dataset",
        "reverie collect reverie/Pendulum-v0 --episodes 200 --out data/pendulum",
    ),
    "train": Verb(
        "reverie.scripts.train",
        "train a world model on a dataset; resumes",
        "reverie train kvae --data data/pendulum --out runs/pendulum",
    ),
    "evaluate": Verb(
        "reverie.scripts.evaluate",
        "long-horizon prediction, imputation, calibration, bounds",
        "reverie evaluate runs/pendulum --data data/pendulum",
    ),
    "plan": Verb(
        "reverie.scripts.plan",
        "an agent that plans in the latent space, against random and true dynamics",
        "reverie plan runs/pendulum --env reverie/Pendulum-v0 --planner cem",
    ),
    "reproduce": Verb(
        "reverie.scripts.reproduce", "a paper's experiment, from data to table", "reverie reproduce kvae-bouncing-ball"
    ),
    "bench": Verb("reverie.scripts.bench", "speed, beside a peer in the same run", "reverie bench kalman"),
    "demo": Verb("reverie.scripts.demo", "the main job in minutes, with a report page", "reverie demo"),
}
GROUPS = ("reproduce", "bench")  # verbs that take a name, and only then options
USERS_ERRORS = (  # beside Python's own; looked up where loaded, as importing them is slow
    ("gymnasium.error", "Error"),
    ("reverie.world_models.training", "TrainingDiverged"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``reverie`` with ``argv`` (default: the process's); returns the exit status, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # torch reads this once, before its first large tensor: with huge pages gradient steps on CPU are shorter.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) went away; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug or not _is_users(error):
            raise
        verb = f" {arguments[0]}" if arguments and arguments[0] in VERBS else ""
        print(f"reverie{verb}: {error}\n(--debug shows where this was raised)", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    for name in _take_imports(arguments):
        _import_users(name)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(importlib.metadata.version("reverie"))
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in VERBS:
        raise ValueError(f"{unknown('verb', name, VERBS)} (`reverie --help` lists them)")
    if name in GROUPS:
        return importlib.import_module(VERBS[name].module).main(rest)
    return run_module(VERBS[name].module, f"reverie {name}", rest)


def overview() -> str:
    """The text of ``reverie --help``: one line per verb, then one example each, in the order of use."""
    width = max(map(len, VERBS))
    lines = ["reverie VERB [options]   world models from pixels, and agents that plan in them", ""]
    lines += [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "examples"]
    lines += [f"  {verb.example}" for verb in VERBS.values()]
    lines += [
        "",
        "reverie VERB --help     the verb's options",
        "--import MODULE         import your module first (own environments and models register themselves)",
        "--debug                 show the traceback of an error",
        "--version               show the version",
    ]
    return "\n".join(lines)


def _take_imports(arguments: list[str]) -> list[str]:
    """Remove ``--import NAME`` and ``--import=NAME`` from ``arguments``, wherever they stand, and return the names."""
    names = []
    while (at := next((i for i, text in enumerate(arguments) if text.split("=")[0] == "--import"), None)) is not None:
        option = arguments.pop(at)
        if "=" in option:
            names.append(option.split("=", 1)[1])
        elif at < len(arguments):
            names.append(arguments.pop(at))
        else:
            raise ValueError("--import needs the name of a module, such as `--import my_models`")
    return names


def _import_users(name: str) -> None:
    # The installed command does not have the current folder on its path, `python -m` does; a user's module lies there.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ValueError(f"--import {name}: no module of that name here ({os.getcwd()}) or installed") from None


def _is_users(error: Exception) -> bool:
    """Whether an error is about what was asked for (one line) rather than a fault of ours (a traceback)."""
    named = (getattr(sys.modules.get(module), name, ()) for module, name in USERS_ERRORS)
    return isinstance(error, (ValueError, TypeError, OSError, *filter(None, named)))


if __name__ == "__main__":
    sys.exit(main())
