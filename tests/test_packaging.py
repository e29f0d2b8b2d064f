"""The wheel: it holds every package and every pretrained file, and one name lands in site-packages."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("envs", "world_models", "agents", "scripts")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> list[Path]:
    found = (init.parent for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py"))
    return sorted(path.relative_to(ROOT) for path in found)


def shipped(pattern: str) -> set[str]:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return {f"reverie/{path.relative_to(ROOT).as_posix()}" for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the checkout, so that nothing is left behind in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)], check=True)
    (path,) = out.glob("reverie-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel and, by path, the present environment's other packages.

    A path in a .pth file does not run the .pth files found there: the editable install of the checkout is not active.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    before = {path.name for path in site.iterdir()}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    return folder, site, {path.name for path in site.iterdir()} - before


def test_package_list_equals_the_folders():
    names = [f"reverie.{'.'.join(path.parts)}" for path in package_folders()]
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == names
    folders = PROJECT["tool"]["setuptools"]["package-dir"]
    assert folders == {name: path.as_posix() for name, path in zip(names, package_folders(), strict=True)}
    assert not (ROOT / "__init__.py").exists(), "reverie is a namespace package"


def test_wheel_holds_every_module_and_pretrained_file(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in held} == {"reverie"}
    assert {name for name in held if name.endswith(".py")} == shipped("*.py")
    data = {name for name in shipped("*") if "/pretrained/" in name or "/assets/" in name}
    assert data <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_pretrained_models_are_small_and_described():
    for folder in (ROOT / "world_models" / "pretrained").glob("*/"):
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * 2**20, f"{folder.name} is above 2 MB"
        assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in folder.iterdir()}


def test_assets_are_small_and_have_their_licences():
    assets = ROOT / "envs" / "assets"
    assert sum(path.stat().st_size for path in assets.rglob("*.png")) <= 2 * 2**20
    licences = (assets / "photographs" / "LICENSE.md").read_text()
    for path in (assets / "photographs").glob("*.png"):
        assert f"| {path.stem} |" in licences, f"{path.name} is not in assets/photographs/LICENSE.md"
    assert "Attribution-ShareAlike 3.0" in (assets / "LICENSE-digits.md").read_text()


def test_one_name_in_site_packages(installed):
    _, _, added = installed
    assert {name for name in added if not name.endswith(".dist-info")} == {"reverie"}


def test_installed_package_works_elsewhere(installed, tmp_path):
    folder, site, _ = installed
    program = (
        "import importlib, sys\n"
        f"for name in {PROJECT['tool']['setuptools']['packages']!r}:\n"
        f"    path = importlib.import_module(name).__file__\n"
        f"    assert path.startswith({str(site)!r}), path\n"
    )
    done = subprocess.run([folder / "bin" / "python", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([folder / "bin" / "reverie", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reverie collect" in done.stdout


def test_every_dependency_is_pinned():
    def key(requirement: str) -> str:
        name = requirement.split(";")[0].split("[")[0].split(">")[0].split("=")[0]
        return name.strip().lower().replace("_", "-")

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == sorted(pins, key=key)
    assert all(line.count("==") == 1 for line in pins)
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = {key(line) for group in (PROJECT["project"]["dependencies"], *extras) for line in group}
    assert wanted <= {key(line) for line in pins}
