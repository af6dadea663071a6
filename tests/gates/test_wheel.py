"""The wheel, built and installed in a folder of its own: whole, typed, and without the repository around it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from leanconv import __version__
from tests.gates import tree

DATA = ("py.typed", "models/counts.json", "report/templates/report.html.j2", "report/templates/page.css")


def built(kind: str, folder: Path) -> Path:
    """A wheel or an sdist of the repository."""
    build = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    answer = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=tree.ROOT, capture_output=True, text=True, timeout=100
    )
    assert answer.returncode == 0, answer.stderr
    return folder / answer.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip puts it, its dependencies left to this environment."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder, wheel], check=True, timeout=100
    )
    return folder


def call(installed: Path, *command: str) -> str:
    """What a command says that finds leanconv in `installed` alone, far from the repository."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    answer = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_it_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in file.namelist() if name.endswith("/METADATA"))
        said = file.read(metadata).decode()
    assert found == {tree.name(path) for path in tree.files() if path.is_relative_to(tree.PACKAGE)}
    assert {f"leanconv/{name}" for name in DATA} <= found
    assert f"\nVersion: {__version__}\n" in said
    assert "\nProject-URL: Tied Block Convolution, https://arxiv.org/abs/2009.12021\n" in said


def test_the_source_archive_holds_what_its_tests_read(archive: Path) -> None:
    with tarfile.open(archive) as file:
        found = {name.partition("/")[2] for name in file.getnames()}
    tracked = {
        tree.name(path) for path in tree.files() if path.parts[len(tree.ROOT.parts)] in ("leanconv", "tests", "docs")
    }
    assert tracked <= found
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "mkdocs.yml", "Makefile"} <= found


def test_a_package_index_would_show_both(wheel: Path, archive: Path) -> None:
    """twine's check of the metadata and of the long description, where a warning is an error."""
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_it_runs_from_where_it_is_installed(installed: Path) -> None:
    python = sys.executable
    where = call(installed, python, "-c", "import leanconv; print(leanconv.__file__)")
    assert Path(where.strip()).parent == installed / "leanconv"
    for command in ((python, "-m", "leanconv"), (python, str(installed / "bin" / "leanconv"))):
        assert call(installed, *command, "--version").split()[-1] == __version__


def test_its_data_files_are_found(installed: Path) -> None:
    """The counts of networks, and the page's template."""
    assert "resnet20" in call(installed, sys.executable, "-m", "leanconv", "models", "resnet20")
    page = "from leanconv.report.page import table_page; print(table_page('A title', '', ('a',), [['b']]).html())"
    assert "A title" in call(installed, sys.executable, "-c", page)
