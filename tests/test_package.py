"""What an installed tfopt provides besides its modules: types for a type checker, and `python -m tfopt`."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import tfopt

ROOT = Path(__file__).parent.parent

USER = """
import tfopt

recipe = tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=0.6), tfopt.Quantize()))
result = tfopt.optimize("model.keras", recipe, "photos/")
reveal_type(result)
reveal_type(result.lite.size)
reveal_type(tfopt.Prune().final_sparsity)
tfopt.Prune(final_sparsity="much")
tfopt.Prune(sparsity=0.6)
reveal_type(tfopt.losses.Hinton())
reveal_type(tfopt.transfer.rank_sources([], "photos/"))
reveal_type(tfopt.training.LearningRates)
reveal_type(tfopt.self_taught.BornAgain)
reveal_type(tfopt.extend.Sparsity)
reveal_type(tfopt.Hinton())
reveal_type(tfopt.rank_sources([], "photos/"))
tfopt.optimise
reveal_type(tfopt.export_tflite(None, "m.tflite", tfopt.Export(io="uint8"), representative_data=[]).notes)
tfopt.export_tflite(None, io="uint8", calibration_samples=8)
tfopt.export_tflite(None, sparse="yes")
"""
EXPECTED = [
    r'6: note: Revealed type is "tfopt\..*\.Result"',
    r'7: note: Revealed type is "int"',
    r'8: note: Revealed type is "float \| None"',
    r'9: error: Argument "final_sparsity" to "Prune" has .* "str"; expected "float \| None"  \[arg-type\]',
    r'10: error: Unexpected keyword argument "sparsity" for "Prune"  \[call-arg\]',
    r'11: note: Revealed type is "tfopt\..*\.Hinton"',
    r'12: note: Revealed type is "tfopt\..*\.Ranking"',
    r'13: note: Revealed type is "def \(.*\) -> tfopt\..*\.LearningRates"',
    r'14: note: Revealed type is "def \(.*\) -> tfopt\..*\.BornAgain"',
    r'15: note: Revealed type is "def \(.*\) -> tfopt\..*\.Sparsity"',
    r'16: note: Revealed type is "tfopt\..*\.Hinton"',  # an old name
    r'17: note: Revealed type is "tfopt\..*\.Ranking"',
    r'18: error: Module has no attribute "optimise".*  \[attr-defined\]',
    r'19: note: Revealed type is "tuple\[str, \.\.\.\]"',
    r'21: error: Argument "sparse" to "export_tflite" has .* "str"; expected "bool"  \[arg-type\]',
]


def run(*command, cwd):
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture
def source(tmp_path):
    """A copy of the files that the package is built from."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("tfopt", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def environment(source, tmp_path):
    """The Python of a fresh virtual environment that contains only the files of the wheel."""
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path).returncode == 0
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", packages)
    done = run(sys.executable, "-m", "pip", "install", *flags, source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "env" / "bin" / "python"


def test_a_type_checker_sees_the_types_of_the_installed_package(environment, tmp_path):
    user = tmp_path / "user.py"
    user.write_text(USER, encoding="utf-8")
    cache = tmp_path / "cache"
    flags = ("--strict", "--config-file", "", "--cache-dir", cache, "--no-error-summary", "--no-color-output")
    done = run(sys.executable, "-m", "mypy", *flags, "--python-executable", environment, "user.py", cwd=tmp_path)
    found = done.stdout.splitlines()
    assert len(found) == len(EXPECTED), done.stdout + done.stderr
    for line, expected in zip(found, EXPECTED, strict=True):
        assert re.fullmatch(f"user.py:{expected}", line)


def test_recipes_come_with_the_wheel(environment, tmp_path):
    (packages,) = (environment.parent.parent / "lib").glob("python*/site-packages")
    code = "from tfopt.cli.shipped import shipped_recipes as a; print(*(f'{n}={p}' for n, p in a().items()))"
    env = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    found = dict(line.split("=") for line in done.stdout.split())
    assert found.keys() == {file.stem for file in (ROOT / "recipes").glob("*.py")}, done.stderr
    for name, file in found.items():
        assert ROOT not in Path(file).parents
        assert Path(file).read_text(encoding="utf-8") == (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package(source, tmp_path):
    """The wheel is built from the sdist, so what it holds is in the sdist too."""
    expected = {file.relative_to(source).as_posix() for file in (source / "tfopt").rglob("*") if file.is_file()}
    recipes = {file.name for file in (source / "recipes").glob("*.py")}
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    assert wheel.name == f"tfopt-{tfopt.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        about = archive.read(f"tfopt-{tfopt.__version__}.dist-info/METADATA").decode()
    assert {name for name in held if name.startswith("tfopt/")} == expected
    assert {"tfopt/py.typed", "tfopt/models/safety/allowed.toml"} < expected
    assert {name.rpartition("/")[2] for name in held if "/data/share/tfopt/recipes/" in name} == recipes
    assert all(name.startswith(("tfopt/", f"tfopt-{tfopt.__version__}.")) for name in held)
    assert "Requires-Python: <3.14,>=3.11" in about and "Provides-Extra: docs" in about
    with tarfile.open(sdist) as archive:
        roots = {name.partition("/")[2] for name in archive.getnames()}
    assert roots > expected | {"LICENSE", "README.md", "pyproject.toml"} | {f"recipes/{name}" for name in recipes}


def test_pages_are_made_from_the_wheel(environment, tmp_path):
    (packages,) = (environment.parent.parent / "lib").glob("python*/site-packages")
    code = (
        "from tfopt.evaluate.page.single import report_page; from tfopt.evaluate.report import Report\n"
        "import tfopt; print(tfopt.__file__, len(report_page(Report({'name': 'mine'}))))"
    )
    env = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    place, size = done.stdout.split()
    assert Path(place).is_relative_to(packages) and int(size) > 500_000


def test_one_version_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.findall(r"^## \[(\d[\d.]*)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)[0] == project["version"]
    assert tfopt.__version__ == project["version"]


def test_python_m_is_the_command_line():
    done = run(sys.executable, "-m", "tfopt", "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m tfopt [OPTIONS] COMMAND")
    assert "verify" in done.stdout


def test_python_m_does_not_import_tensorflow():
    code = (
        "import runpy, sys; sys.argv = ['tfopt', '--help']\n"
        "try: runpy.run_module('tfopt', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'tensorflow', 'keras', 'tf_keras', 'ai_edge_litert'} & set(sys.modules)"
    )
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
