"""Training cohorts in parallel on the cores of one machine."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from pipeline.guard import StopTraining


def workers(device: str) -> int:
    """The number of cohorts trained at once: one per thread of the CPU, whose products are mostly small; 1 on a GPU."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


def side_by_side(jobs: Sequence[Callable[[], object]], device: str) -> None:
    """Run jobs in parallel, each with an equal share of torch's threads.

    A job's number of threads depends on the number of jobs alone, so that sums are always added up in the same order.

    Raises:
        Exception: The exception of a job, after all jobs have ended. ``StopTraining`` is raised last, after errors.
    """
    threads = torch.get_num_threads()
    at_once = min(workers(device), len(jobs))
    if at_once < 2:
        for job in jobs:
            job()
        return

    def run(job: Callable[[], object]) -> None:
        torch.set_num_threads(max(1, threads // at_once))  # of this thread alone
        job()

    try:
        with ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(run, job) for job in jobs]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:  # on a failure, or a second Ctrl-C, jobs that wait are cancelled
                pool.shutdown(cancel_futures=True)
        errors = [job.exception() for job in running if not job.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: isinstance(error, StopTraining)):
            raise error
    finally:
        torch.set_num_threads(threads)
