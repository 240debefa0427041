"""One thread a test process, and with the slow tests what takes minutes in all."""

import re

import pytest
import torch

# Tensors are tiny here, and threads that wait for each other slow.
torch.set_num_threads(1)

IN_ALL = {
    r"::test_the_strategy_conforms\[": "::TestConformance::",
    r"::test_a_fault_is_found_by_its_check_and_by_no_other\[": r"\[(Raises|Detaches|Counts)\]$",
    r"tests/cli/test_apart\.py::": "$^",
}
"""Tests of many cases, by a pattern of their names; and which of them are no slow ones."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tests what takes minutes in all, where others try the usual case."""
    for item in items:
        for part, usual in IN_ALL.items():
            if re.search(part, item.nodeid) and not re.search(usual, item.nodeid):
                item.add_marker(pytest.mark.slow)
