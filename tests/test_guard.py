import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.guard import Guard, StopTraining, check_stop


@pytest.fixture(autouse=True)
def _handlers_come_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_fault_1_a_signal_stops_at_the_next_check_with_its_exit_code(number, exit_code):
    with Guard() as guard:
        guard.check()
        os.kill(os.getpid(), number)
        for _ in range(2):
            with pytest.raises(StopTraining, match=f"interrupted by {number.name}") as stop:
                guard.check()
            assert stop.value.exit_code == exit_code


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_fault_1_a_second_sigint_ends_at_once(first):
    with Guard():
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_end_of_the_given_time_is_a_stop_that_is_no_failure():
    with Guard(timeout=0) as guard:
        with pytest.raises(StopTraining, match="--timeout is over") as stop:
            guard.check()
        assert stop.value.exit_code == 0
    with Guard(timeout=3600) as guard:
        guard.check()


def test_a_signal_before_the_time_is_over_keeps_its_exit_code():
    with Guard(timeout=0) as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopTraining) as stop:
            guard.check()
        assert stop.value.exit_code == 143


def test_handlers_come_back_when_training_fails():
    with pytest.raises(ZeroDivisionError), Guard():
        _ = 1 / 0


def test_a_guard_that_is_no_context_takes_no_signals():
    before = signal.getsignal(signal.SIGTERM)
    Guard(timeout=10).check()
    assert signal.getsignal(signal.SIGTERM) == before


def test_check_stop_asks_the_active_guards_from_any_thread():
    check_stop()
    with Guard(timeout=3600), ThreadPoolExecutor(1) as pool:
        pool.submit(check_stop).result()
    with Guard(timeout=0), ThreadPoolExecutor(1) as pool, pytest.raises(StopTraining):
        pool.submit(check_stop).result()
    check_stop()


def test_outside_the_main_thread_a_guard_still_keeps_the_time():
    def run():
        with Guard(timeout=0):
            check_stop()

    with ThreadPoolExecutor(1) as pool, pytest.raises(StopTraining, match="--timeout"):
        pool.submit(run).result()


def test_of_two_guards_of_threads_that_end_in_the_order_in_which_they_began_none_is_left():
    first, second = Guard(timeout=0), Guard(timeout=3600)
    with ThreadPoolExecutor(1) as thread:  # where signals are not taken
        for step in (first.__enter__, second.__enter__, first.__exit__):
            thread.submit(step).result()
        check_stop()
        thread.submit(second.__exit__).result()
    check_stop()


def test_the_time_of_an_outer_guard_counts_within_an_inner_one():
    with Guard(timeout=0), Guard(), pytest.raises(StopTraining, match="--timeout is over"):
        check_stop()
