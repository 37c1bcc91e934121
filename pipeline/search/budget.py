"""The budget of a cell: the waves in which its trials run, and what its search cannot do as the study file says."""

from typing import TYPE_CHECKING

from pipeline.config.search_spec import SearchSpec
from pipeline.space import fitted
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.adapt.contract import Adapter


def next_wave(search: SearchSpec, done: int, left: int) -> int:
    """How many trials a cell asks for together, after ``done`` trials, with ``left`` of its budget.

    A wave of the start-up ends with it: a longer one would leave the sampler less of the budget to learn from.
    """
    to_start = search.sampler.startup - done
    return min(search.ask_ahead, left, to_start if to_start > 0 else left)


def waves(search: SearchSpec) -> list[int]:
    """The number of trials in each wave of a cell, if no trial fails."""
    sizes: list[int] = []
    while left := search.trials - sum(sizes):
        sizes.append(next_wave(search, sum(sizes), left))
    return sizes


def search_notes(asked: SearchSpec, adapter: "Adapter") -> list[str]:
    """What the search of an adapter cannot do as ``[search]`` says: sentences that name the key to change."""
    search, notes = fitted(asked, adapter), list[str]()
    if not adapter.trains:
        return notes
    if search.trials < asked.trials:
        notes.append(
            f"each cell has {counted(search.trials, 'different trial')} for a budget of {asked.trials}, so it ends "
            f"early; give search.lr a range, or a longer list of choices, or lower search.trials"
        )
    # With the trials that the file asks for: the note above says what lack of different values does.
    if reason := search.pruner.idle(search.model_copy(update={"trials": asked.trials})):
        notes.append(f"the pruner '{search.pruner.name}' can end no trial early: {reason}")
    return notes
