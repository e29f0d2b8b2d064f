"""The command: it answers at once, teaches, and turns mistakes into one line with status 2."""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType

import pytest
import tyro
from reverie.scripts import cli, dispatch, ui
from reverie.scripts.bench import BENCHES
from reverie.scripts.cli import VERBS, main
from reverie.scripts.reproduce import EXPERIMENTS
from reverie.scripts.results import write_result

SINGLE = {name: verb.module for name, verb in VERBS.items() if name not in cli.GROUPS}
GROUPED = {
    f"{group} {name}": entry.module
    for group, table in (("reproduce", EXPERIMENTS), ("bench", BENCHES))
    for name, entry in table.items()
}


@dataclass(frozen=True)
class Args:
    """What the stand-in verb takes."""

    size: int = 3
    """A number."""


@dataclass(frozen=True)
class OnGPU:
    """What a stand-in that can use a GPU takes."""

    device: str = "cpu"
    """A device."""
    budget: float | None = None
    """Minutes."""
    json: Path | None = None
    """A file."""


@pytest.fixture
def verb(monkeypatch):
    """A stand-in verb `try`; set ``verb.main`` to what it should do."""
    module = ModuleType("reverie_stand_in", "A stand-in.")
    module.Args, module.main = Args, lambda args: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(VERBS, "try", dispatch.Verb(module.__name__, "a stand-in", "reverie try"))
    return module


def test_help_imports_nothing_heavy():
    program = (
        "import sys, time; start = time.perf_counter(); from reverie.scripts.cli import main; main(['--help']); "
        "heavy = {'torch', 'numpy', 'gymnasium', 'matplotlib', 'numba', 'tyro', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy; assert time.perf_counter() - start < 1.0"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, verb in VERBS.items():
        assert f"  {name}" in done.stdout
        assert verb.summary in done.stdout
        assert verb.example in done.stdout


@pytest.mark.parametrize("command", [[], ["help"], ["-h"], ["--help"]])
def test_overview(command, capsys):
    assert main(command) == 0
    assert capsys.readouterr().out == cli.overview() + "\n"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.count(".") == 2


@pytest.mark.parametrize("module_name", [*SINGLE.values(), *GROUPED.values()])
def test_every_registered_module_can_run(module_name):
    module = importlib.import_module(module_name)
    assert is_dataclass(module.Args)
    assert callable(module.main)
    assert module.__doc__, "the docstring is what --help shows"


@pytest.mark.parametrize("name", [*SINGLE, *GROUPED])
def test_help_of_every_verb(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    module = importlib.import_module((SINGLE | GROUPED)[name])
    for field in fields(module.Args):
        option = field.name.replace("_", "-")
        assert option.lower() in shown.lower() or field.name in shown, f"{name} --help does not show {field.name}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["trian"], "unknown verb 'trian'; did you mean train?"),
        (["xyzzy"], "expected one of bench, collect"),
        (["--epochs", "3"], "unknown verb '--epochs'"),
        (["reproduce", "kvae-ball"], "did you mean kvae-bouncing-ball"),
        (["reproduce", "kvae"], "did you mean kvae-bouncing-ball or kvae-gravity or"),
        (["bench", "xyzzy"], "expected one of envs, kalman, memory, planners, train"),
        (["--import", "no_such_module", "envs"], "--import no_such_module: no module of that name"),
        (["--import=no.such", "envs"], "--import no.such: no module of that name"),
        (["envs", "--import"], "--import needs the name of a module"),
    ],
)
def test_bad_commands(command, message, capsys):
    assert main(command) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not shown.out


@pytest.mark.parametrize("error", [ValueError("size is 3"), FileNotFoundError(2, "gone", "a.json"), TypeError("no")])
def test_users_errors_are_one_line(verb, error, capsys):
    def fail(args):
        raise error

    verb.main = fail
    assert main(["try"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"reverie try: {error}\n")
    with pytest.raises(type(error)):
        main(["try", "--debug"])


def test_gymnasium_errors_are_users_errors(verb, capsys):
    import gymnasium

    verb.main = lambda args: gymnasium.make("NoSuch-v0")
    assert main(["try"]) == 2
    assert "NoSuch" in capsys.readouterr().err


def test_faults_of_ours_keep_their_traceback(verb):
    def fail(args):
        raise RuntimeError("a bug")

    verb.main = fail
    with pytest.raises(RuntimeError, match="a bug"):
        main(["try"])


def test_interrupt(verb, capsys):
    def stop(args):
        raise KeyboardInterrupt

    verb.main = stop
    assert main(["try"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_options_and_status(verb):
    seen = []
    verb.main = lambda args: seen.append(args) or 7
    assert main(["try", "--size", "5"]) == 7
    assert seen == [Args(5)]
    for wrong in (["--size", "big"], ["--sise", "5"]):
        with pytest.raises(SystemExit) as stop:
            main(["try", *wrong])
        assert stop.value.code == 2
    assert len(seen) == 1


def test_import_runs_the_users_module(verb, tmp_path, monkeypatch):
    (tmp_path / "my_models_for_test.py").write_text("loaded = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["try", "--import", "my_models_for_test"]) == 0
    assert sys.modules.pop("my_models_for_test").loaded


def test_import_of_a_broken_module_shows_what_it_lacks(verb, tmp_path, monkeypatch):
    (tmp_path / "my_broken_module.py").write_text("import no_such_dependency\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        main(["--import", "my_broken_module", "try"])


@pytest.mark.parametrize(("group", "entries"), [("reproduce", EXPERIMENTS), ("bench", BENCHES)])
def test_group_without_name_lists(group, entries, capsys):
    assert main([group]) == 0
    shown = capsys.readouterr().out
    for name, entry in entries.items():
        line = next(line for line in shown.splitlines() if line.startswith(f"{name} "))
        assert entry.cost in line
        assert line.endswith("none yet")


def test_missing_runs_what_has_no_result(verb, tmp_path, monkeypatch, capsys):
    entries = {name: dispatch.Entry(verb.__name__, "a stand-in", "1 s", name) for name in ("one", "two")}
    monkeypatch.setattr(dispatch, "result_path", lambda name: tmp_path / f"{name}.json")
    write_result(tmp_path / "one.json", name="one", command="reverie", config={}, metrics={"a": 1.0}, seconds=0)
    ran = []
    verb.main = lambda args: ran.append(args)
    assert dispatch.run_group("bench", "benchmark", entries, ["--missing"]) == 0
    assert len(ran) == 1
    assert "reverie bench two" in capsys.readouterr().err


def test_what_cannot_run_keeps_none_of_the_others_from_running(verb, tmp_path, monkeypatch, capsys):
    entries = {name: dispatch.Entry(verb.__name__, "a stand-in", "1 s", name) for name in ("one", "two", "three")}
    monkeypatch.setattr(dispatch, "result_path", lambda name: tmp_path / f"{name}.json")
    ran = []

    def run(args):
        ran.append(args)
        if len(ran) == 1:
            raise FileNotFoundError("no data here")
        return 3 if len(ran) == 2 else 0

    verb.main = run
    assert dispatch.run_group("bench", "benchmark", entries, ["--missing"]) == 1
    assert len(ran) == 3
    shown = capsys.readouterr().err
    assert "one failed: no data here" in shown and "without a result: one, two" in shown


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_gpu_gets_options_that_exist(name):
    entry = EXPERIMENTS[name]
    tyro.cli(importlib.import_module(entry.module).Args, args=list(entry.on_gpu))


def test_a_gpu_runs_the_full_configuration(verb, tmp_path, monkeypatch):
    entry = dispatch.Entry(verb.__name__, "a stand-in", "1 s", "one", on_gpu=("--budget", "7"))
    monkeypatch.setattr(dispatch, "result_path", lambda name: tmp_path / f"{name}.json")
    ran, verb.Args = [], OnGPU
    verb.main = lambda args: ran.append(args)
    assert dispatch.run_group("bench", "benchmark", {"one": entry}, ["--missing", "--device", "cuda"]) == 0
    assert ran == [OnGPU("cuda", 7.0, tmp_path / "cuda" / "one.json")]


def test_torch_is_asked_for_huge_pages_unless_the_user_says_otherwise(verb, monkeypatch):
    seen = []
    verb.main = lambda args: seen.append(os.environ["THP_MEM_ALLOC_ENABLE"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    main(["try"])
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    main(["try"])
    assert seen == ["0", "1"]


def test_missing_on_a_gpu_hands_on_what_is_left_of_the_budget(verb, tmp_path, monkeypatch, capsys):
    entries = {name: dispatch.Entry(verb.__name__, "a stand-in", "1 s", name) for name in ("one", "two", "three")}
    monkeypatch.setattr(dispatch, "result_path", lambda name: tmp_path / f"{name}.json")
    clock, ran = iter((0.0, 60.0, 600.0)), []
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: next(clock))
    verb.main = lambda args: ran.append(args)
    line = ["--missing", "--device", "cuda", "--budget", "5"]
    assert dispatch.run_group("bench", "benchmark", entries, line) == 0
    assert not ran and "has its result on cuda" in capsys.readouterr().err  # Args has no --device: nothing for a GPU
    clock, verb.Args = iter((0.0, 60.0, 600.0)), OnGPU
    assert dispatch.run_group("bench", "benchmark", entries, line) == 0
    assert ran == [OnGPU("cuda", 4.0, tmp_path / "cuda" / "one.json")]
    assert "the 5 minutes are used up; next would be two" in capsys.readouterr().err


def test_plain_table(capsys):
    ui.table(("name", "value"), [("a", 1.23456), ("long name", 2.0)], title="title")
    assert capsys.readouterr().out.splitlines() == [
        "title", "name       value", "---------  -----", "a          1.235", "long name      2"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="3 cells"):
        ui.table(("name", "value"), [("a", 1, 2)])


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    def everything():
        ui.say("hello")
        ui.table(("a",), [(1,)])
        with ui.progress("work", total=1) as advance:
            advance()
        return capsys.readouterr()

    monkeypatch.setenv("RANK", "1")
    assert everything() == ("", "")
    monkeypatch.setenv("RANK", "0")
    shown = everything()
    assert "a" in shown.out and "hello" in shown.err and "work" in shown.err


def test_plain_progress(capsys, monkeypatch):
    with ui.progress("working", total=4) as advance:
        advance(3, loss=0.123456)
        advance()
    assert capsys.readouterr().err == "working: 4/4 in 0 s\n"
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0.0)
    with ui.progress("working") as advance:
        advance(total=7, completed=5, loss=0.123456, stage="one")
    assert capsys.readouterr().err == "working: 5/7 in 0 s loss 0.1235  stage one\n" * 2


def test_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")
    with ui.progress("working") as advance:
        advance(total=7, completed=5)
        advance(2, loss=0.5)
    shown = capsys.readouterr().err
    assert "working" in shown and "7/7" in shown and "loss 0.5" in shown
