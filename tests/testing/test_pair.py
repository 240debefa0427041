"""Two processes that answer, fail, print or die, and what the next request gets."""

import os
import signal
import sys

import pytest
import torch.distributed as dist
from torch import Tensor

from kdcore import Features, Strategy, hookimpl, squared_error
from kdcore.testing import small_student
from kdcore.testing.case import Case
from kdcore.testing.check import NotApplicableError
from kdcore.testing.pair import OtherProcessError, in_two_processes
from tests.testing.broken import Sound

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="needs processes that fork"
)


def rank(_: Case) -> int:
    return dist.get_rank()


def loud(case: Case) -> int:
    print("x" * 100_000, flush=True)  # noqa: T201
    return rank(case)


def lost(case: Case) -> int:
    if rank(case) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def raising(case: Case) -> int:
    raise ValueError(f"of {rank(case)}")


def test_each_process_answers_in_the_order_of_the_ranks() -> None:
    assert in_two_processes(rank, Case(Sound)) == [0, 1]


def test_what_a_strategy_prints_is_no_answer() -> None:
    assert in_two_processes(loud, Case(Sound)) == [0, 1]


@pytest.mark.parametrize(
    ("work", "told"), [(lost, "ended without a word"), (raising, "ValueError: of 0")]
)
def test_one_that_fails_leaves_the_next_request_alone(work: object, told: str) -> None:
    assert callable(work)
    with pytest.raises(OtherProcessError, match=told):
        in_two_processes(work, Case(Sound))
    assert in_two_processes(rank, Case(Sound)) == [0, 1]


def test_what_another_process_cannot_import_is_not_tried() -> None:
    class Local(Strategy):
        """Known here alone."""

        @hookimpl
        def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
            return squared_error(student.logits, teacher.logits)

    for case in (Case(Local), Case(Sound, student=lambda: small_student())):
        with pytest.raises(NotApplicableError, match="could not import"):
            in_two_processes(rank, case)
