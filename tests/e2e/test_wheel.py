"""The wheel and the source archive: installed outside the checkout, they work and contain the models."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", ".venv*", "docs")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the source archive, built from a copy of the tree without the network."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    build(tree, folder, "build_wheel(to); build_sdist(to)")
    build(tree / "deploy" / "multilingual", folder / "multilingual", "build_wheel(to)")
    return folder


def build(tree: Path, out: Path, calls: str) -> None:
    """Build archives of a project into a folder."""
    program = f"import sys; to = sys.argv[1]; from setuptools.build_meta import *; {calls}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def run(program: str, installed: Path, folder: Path) -> str:
    """Return what a Python program prints that imports from `installed`, outside the checkout."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_wheel_outside_the_checkout_serves_the_models_inside_it(built: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    program = (
        "import finetune, service; from service import ZeroShotClassifier, load; print(finetune.__file__);"
        'print(load("sentiment")("A wonderful film.")[0]["label"]);'
        'print(ZeroShotClassifier()("The match went to extra time.", ["cooking", "sports"])["labels"][0])'
    )
    location, sentiment, topic = run(program, installed, tmp_path).split()[-3:]
    assert Path(location).is_relative_to(installed), "the checkout was imported instead of the wheel"
    assert (sentiment, topic) == ("positive", "sports")


@pytest.mark.slow
def test_the_multilingual_model_is_a_distribution_of_its_own(built: Path, tmp_path: Path) -> None:
    main, other = next(built.glob("*.whl")), next((built / "multilingual").glob("*.whl"))
    assert main.stat().st_size < 100e6
    program = "from finetune.core.model_folder import served; print(*served(None), sep=',')"
    for wheels, expected in (([main], "sentiment,topics"), ([main, other], "sentiment,topics,topics-multilingual")):
        installed = tmp_path / str(len(wheels))
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(installed)
        assert run(program, installed, tmp_path).split()[-1] == expected


@pytest.mark.slow
def test_both_archives_include_license_notice_and_recipes(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        sources = [name.partition("/")[2] for name in archive.getnames()]
    for name in ("LICENSE", "NOTICE"):
        assert any(entry.endswith(f"licenses/{name}") for entry in names)
        assert name in sources
    for model in ("sentiment", "topics"):
        assert f"finetune/shipped/{model}/model.safetensors" in names
        assert f"models/{model}/model.safetensors" in sources
    assert "finetune/recipes/reviews.yaml" in names
    assert "tests/conftest.py" in sources
