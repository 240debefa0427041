"""The first signal is noted where somebody takes care of it; all others stop at once."""

import os
import signal
import threading

import pytest

from kdcore.errors import Interrupted
from kdcore.interruption import SIGNALS, Interruption, Stopped, exit_code_of


def test_the_first_signal_is_noted_and_the_second_stops() -> None:
    interruption = Interruption()
    with interruption.listening(), interruption.noted():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked is signal.SIGTERM
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM; saved there$") as caught:
            interruption.obey("saved there")
        assert caught.value.exit_code == 143
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
        assert stopped.value.signal is signal.SIGINT


def test_nothing_is_obeyed_that_nobody_asked() -> None:
    Interruption().obey("saved")


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nobody_takes_care_a_signal_stops_at_once(number: signal.Signals) -> None:
    interruption = Interruption()
    with interruption.listening():
        with interruption.noted():
            pass
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)


def test_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with Interruption().listening():
        assert all(signal.getsignal(number) != before[number] for number in SIGNALS)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_other_threads_leave_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def listen() -> None:
        with Interruption().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


def test_exit_codes_are_those_of_shells() -> None:
    assert [exit_code_of(number) for number in SIGNALS] == [130, 143, 143]
