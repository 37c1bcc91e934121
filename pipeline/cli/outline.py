"""What a run has before it."""

from pipeline.config.spec import StudySpec
from pipeline.results.progress import progress_of
from pipeline.results.status import read_status
from pipeline.space import cells, fitted


def trials_to_come(spec: StudySpec, url: str) -> dict[str, int]:
    """Trials that each combination of a study lacks, in the study file's order.

    What cannot be read quickly, as after a run that was killed, counts as not begun.
    """
    stored = read_status(url, spec.name, with_reasons=False) or []
    done = {combination["combination"]: progress_of(combination).done for combination in stored}
    to_come = {}
    for combination in spec.combination:
        search = fitted(spec.search, combination.adapter)
        to_come[combination.name] = max(0, search.trials * len(cells(search)) - done.get(combination.name, 0))
    return to_come
