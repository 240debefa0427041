"""One run for all tests of this folder, and copies of it to harm."""

import shutil
from pathlib import Path

import pytest

from tests.shipping.photos import trained


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run and return its folder, with 120 test images; not to be changed."""
    return trained(tmp_path_factory.mktemp("shipping"))


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """Copy it, so that it may be changed; its data lie where they did."""
    return Path(shutil.copytree(run, tmp_path / "run"))
