"""The house rules that a machine can check: who imports whom, how long files are, what docstrings name."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "world_models", "agents", "scripts")
LIBRARY = PACKAGES[:3]
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What a package never imports, anywhere in its files.
NEVER = {
    "envs": ("torch", "accelerate", "tensorboard", "reverie.world_models", "reverie.agents", "reverie.scripts"),
    "world_models": ("gymnasium", "pymunk", "reverie.envs", "reverie.agents", "reverie.scripts"),
    "agents": ("pymunk", "reverie.envs", "reverie.scripts"),
    "scripts": (),
}
# Extras and slow imports: inside the function that needs them, so that the base install works and imports stay light.
LAZY = (
    "stable_baselines3",
    "minari",
    "jax",
    "pygame",
    "miniworld",
    "pyglet",
    "matplotlib",
    "torchrl",
    "dynamax",
    "pyro",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=name_of)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Absolute name of every module that a file imports, whether it does so at import time, and the line."""
    tree = parsed(path)
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in lazy, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = ("reverie", *path.relative_to(ROOT).parent.parts)
                base = ".".join((*inside[: len(inside) + 1 - node.level], *([base] if base else [])))
            for alias in node.names:
                yield f"{base}.{alias.name}", node not in lazy, node.lineno


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@each(MODULES)
def test_dependencies_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    for module, _, line in imports(path):
        for forbidden in NEVER[package]:
            assert not within(module, forbidden), f"{name_of(path)}:{line} imports {module}"


@each(MODULES + TESTS)
def test_no_bare_imports_of_the_folders(path):
    # From the repository root `import envs` works too, and yields other classes than `import reverie.envs`.
    for module, _, line in imports(path):
        assert module.split(".")[0] not in PACKAGES, f"{name_of(path)}:{line} imports {module}; write reverie.{module}"


@each(MODULES)
def test_relative_imports_stay_within_the_package(path):
    inside = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= len(inside), f"{name_of(path)}:{node.lineno} leaves its package; write reverie.*"


@each([path for path in MODULES if path.relative_to(ROOT).parts[0] in LIBRARY])
def test_optional_and_slow_packages_are_imported_where_needed(path):
    for module, at_import, line in imports(path):
        assert not (at_import and module.split(".")[0] in LAZY), f"{name_of(path)}:{line} imports {module} at once"


@each([path for path in MODULES if path.relative_to(ROOT).parts[0] == "agents"])
def test_agents_know_no_concrete_model(path):
    concrete = {"kvae", "KVAE"}
    for source in (ROOT / "world_models").glob("*.py"):
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "WorldModel" for base in node.bases):
                concrete |= {source.stem, node.name}
    for module, _, line in imports(path):
        parts = module.split(".")
        named = concrete.intersection(parts[2:]) if parts[:2] == ["reverie", "world_models"] else ()
        assert not named, f"{name_of(path)}:{line} imports {module}; ask for a capability instead"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("reverie.envs", ("torch", "reverie.world_models", "matplotlib", "pygame", "minari")),
        ("reverie.world_models", ("gymnasium", "reverie.envs", "matplotlib", "pymunk")),
        ("reverie.agents", ("reverie.envs", "stable_baselines3", "matplotlib", "pymunk")),
        ("reverie.scripts.cli", ("torch", "numpy", "gymnasium", "rich", "tyro")),
    ],
)
def test_importing_a_package_stays_light(module, forbidden):
    program = f"import sys, {module}; print(*({set(forbidden)!r} & sys.modules.keys()))"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not loaded, f"import {module} loads {loaded}"


@each(MODULES + TESTS)
def test_files_stay_readable(path):
    count = len(path.read_text().splitlines())
    assert count <= 500, f"{name_of(path)} has {count} lines; split it"


@each([path for path in MODULES if path.relative_to(ROOT).parts[0] in LIBRARY])
def test_library_code_does_not_print_or_unpickle(path):
    for module, _, line in imports(path):
        assert module.split(".")[0] not in ("pickle", "dill", "joblib"), f"{name_of(path)}:{line} imports {module}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name_of(path)}:{node.lineno} prints"


def text_files() -> list[Path]:
    folders = (*PACKAGES, "tests", "docs", "results", ".ci")
    suffixes = {".py", ".md", ".json", ".toml", ".txt", ""}
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    found += [ROOT / name for name in ("README.md", "Makefile", "pyproject.toml", "constraints.txt")]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


@each(text_files())
def test_no_absolute_paths(path):
    local = re.compile(r"(?<![\w.}])/(?:work|tmp|root|home|mnt)/\w")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not local.search(line), f"{name_of(path)}:{number} holds a path of one machine: {line.strip()}"


def documented(node: ast.AST) -> list[str]:
    """Names listed below ``Args:`` in a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", ast.get_docstring(node) or "", re.MULTILINE)
    if not section:
        return []
    names = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", section[1], re.MULTILINE)
    return [name.strip().lstrip("*") for group in names for name in group.split(",")]


def accepted(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Argument names of a function, or of a class: of its ``__init__`` and its annotated fields."""
    if isinstance(node, ast.ClassDef):
        fields = {
            item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and hasattr(item.target, "id")
        }
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return fields.union(*map(accepted, inits))
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return {argument.arg for argument in every}


@each(MODULES)
def test_docstrings_name_arguments_that_exist(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            stray = [name for name in documented(node) if name not in accepted(node)]
            assert not stray, f"{name_of(path)}:{node.lineno} {node.name} documents {stray}, which it does not take"


@each([path for path in MODULES if path.relative_to(ROOT).parts[0] in LIBRARY])
def test_public_things_have_docstrings(path):
    tree = parsed(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


def test_the_docstring_check_sees_what_it_should():
    source = '''
def f(a, *, b, **others):
    """Do it.

    Args:
        a: one,
            more on it: still a
        b, c: two.
        others: the rest.

    Returns:
        d: three.
    """
'''
    node = ast.parse(source).body[0]
    assert documented(node) == ["a", "b", "c", "others"]
    assert accepted(node) == {"a", "b", "others"}
