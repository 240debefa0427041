"""One thread a test process, and the conformance of other settings with the slow tests."""

import pytest
import torch

# Tensors are tiny here, and threads that wait for each other slow.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tests what takes minutes in all, where a method's defaults are tried."""
    for item in items:
        of_the_kit = "::test_the_strategy_conforms[" in item.nodeid
        if of_the_kit and "::TestConformance::" not in item.nodeid:
            item.add_marker(pytest.mark.slow)
