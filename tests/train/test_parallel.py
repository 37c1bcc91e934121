import functools
import threading
import time
from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from tiny_settings import SETTINGS, TRIALS, Setting, equal, make_setting

from pipeline.train.lane import Lane
from pipeline.train.loop import side_by_side, workers


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_there_is_one_worker_per_thread_and_one_for_a_gpu():
    assert workers("cpu") == 4
    assert workers("cuda:0") == 1


@pytest.mark.parametrize(("jobs", "threads"), [(2, 2), (3, 1), (4, 1), (9, 1)])
def test_every_job_runs_once_with_its_share_of_the_threads(jobs, threads):
    ran: list[tuple[int, int]] = []
    side_by_side([lambda job=job: ran.append((job, torch.get_num_threads())) for job in range(jobs)], "cpu")
    assert sorted(ran) == [(job, threads) for job in range(jobs)]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("jobs", "device"), [(1, "cpu"), (0, "cpu"), (3, "cuda")])
def test_a_single_worker_runs_jobs_in_turn_with_all_threads(jobs, device):
    ran = []
    here = threading.get_ident()
    run = [lambda job=job: ran.append((job, torch.get_num_threads(), threading.get_ident())) for job in range(jobs)]
    side_by_side(run, device)
    assert ran == [(job, 4, here) for job in range(jobs)]


def test_jobs_run_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    side_by_side([both.wait, both.wait], "cpu")


def test_an_error_of_a_job_is_raised_after_running_jobs_end_and_cancels_waiting_ones():
    began, ended = [], []

    def fail() -> None:
        raise InterruptedError("the test said so")

    def work() -> None:
        began.append(1)
        time.sleep(0.05)
        ended.append(1)

    with pytest.raises(InterruptedError, match="the test said so"):
        side_by_side([fail, *[work] * 40], "cpu")
    assert len(ended) == len(began) < 40
    assert torch.get_num_threads() == 4


def cohort(setting: Setting) -> list[Lane]:
    return [setting.lane(**values) for values in TRIALS]


def trained_beside(setting: Setting, others: int) -> list[Lane]:
    """A cohort after two epochs, each of them trained beside other cohorts."""
    cohorts = [cohort(setting) for _ in range(others + 1)]
    for lane in chain(*cohorts[1:]):
        lane.lr /= 2
    for _ in range(2):
        side_by_side([functools.partial(setting.epoch, lanes) for lanes in cohorts], "cpu")
    return cohorts[0]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit's last block"])
def test_a_cohort_gives_the_same_bits_whatever_trains_in_parallel(name):
    build, targets = SETTINGS[name]
    setting = make_setting(build, targets=targets)
    first = trained_beside(setting, 3)
    for others in (3, 5, 2):
        assert all(map(equal, first, trained_beside(setting, others)))


def test_parallel_cohorts_equal_sequential_ones_up_to_rounding():
    setting = make_setting(SETTINGS["cnn"][0], torch.float64)
    in_turn = cohort(setting)
    for _ in range(2):
        setting.epoch(in_turn)
    for lane, other in zip(trained_beside(setting, 2), in_turn, strict=True):
        for name, tensor in lane.parameters.items():
            torch.testing.assert_close(tensor, other.parameters[name], rtol=0, atol=1e-9)
