"""Libraries that tests of the extras need: without them such tests are skipped, or fail in CI."""

import importlib
import os
from types import ModuleType

import pytest

EVERYTHING = "KDCORE_TEST_EXTRAS"
"""Set where all extras are installed: a test that cannot find one fails then."""


def needed(name: str) -> ModuleType:
    """Import a library, or skip the module of tests that needs it."""
    if os.environ.get(EVERYTHING):
        return importlib.import_module(name)
    found: ModuleType = pytest.importorskip(name, reason=f"{name} is not installed")
    return found
