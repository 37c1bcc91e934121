"""Cohorts side by side on the cores of one machine."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from pipeline.guard import StopTraining


def workers(device: str) -> int:
    """How many cohorts train at once: one a core, since most products are too small to be shared; or one on a GPU."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def side_by_side(jobs: Sequence[Callable[[], object]], device: str) -> None:
    """Run jobs, each with its share of the threads that torch may use; what one raises is raised once all have ended.

    How many threads a job has depends on the number of jobs alone, so that a sum is always added up in the same order.
    """
    threads = torch.get_num_threads()
    at_once = min(workers(device), len(jobs))
    if at_once < 2:
        for job in jobs:
            job()
        return

    def run(job: Callable[[], object]) -> None:
        torch.set_num_threads(max(1, threads // at_once))  # of this thread; the libraries below count for each its own
        job()

    try:
        with ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(run, job) for job in jobs]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:  # one failed, or someone asked twice: what has not begun does not begin
                pool.shutdown(cancel_futures=True)
        errors = [each.exception() for each in running if not each.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: isinstance(error, StopTraining)):
            raise error
    finally:
        torch.set_num_threads(threads)
