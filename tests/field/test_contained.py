"""What fails in one combination fails alone, whatever fails and however, as long as the storage and the disk do not."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import invoke, write_study
from sqlalchemy.exc import OperationalError

from pipeline.errors import IntegrityError, NothingUsableError, SpecError, StorageError
from pipeline.export import selection
from pipeline.guard import StopTraining
from pipeline.results.reading import read_results
from pipeline.run import study_run
from pipeline.run.failures import Failures
from pipeline.search.coordinator import Coordinator
from pipeline.store.database import open_storage

CONTAINED = [
    IntegrityError("layer 'fc1' holds NaN"), NothingUsableError("trained again, and failed"), SpecError("no such rank"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"), torch.OutOfMemoryError("CUDA out of memory"),
    torch.linalg.LinAlgError("did not converge"), ValueError("expected more than 1 value"), KeyError("fc1"),
    MemoryError(), ZeroDivisionError("division by zero"), NotImplementedError("aten::x"), AssertionError(),
]  # fmt: skip
ENDS_ALL = [
    StorageError("gone"), OSError(errno.ENOSPC, "full"), OperationalError("select", {}, Exception("gone")),
    StopTraining("signal 15", 143), KeyboardInterrupt(),
]  # fmt: skip


@pytest.mark.parametrize("error", CONTAINED, ids=repr)
def test_a_part_that_fails_is_noted_and_the_others_go_on(error, said):
    failures, done = Failures(), []
    for name in ("one", "two", "three"):
        with failures.contained(name, f"{name}: failed"):
            if name == "two":
                raise error
            done.append(name)
    assert done == ["one", "three"]
    assert said[0].startswith("two: failed: ")
    assert str(error) in said[0]
    with pytest.raises(IntegrityError, match=r"^these failed: two: \S") as raised:
        failures.raise_any("these failed")
    assert raised.value.__cause__ is error


def test_a_reason_that_several_parts_have_is_said_once_with_their_names():
    failures = Failures()
    for name, reason in (("one", "no rank"), ("two", "no data"), ("three", "no rank"), ("three", "no rank")):
        with failures.contained(name, f"{name}: failed"):
            raise SpecError(reason)
    with pytest.raises(IntegrityError, match=r"^these failed: one and three: no rank; two: no data$"):
        failures.raise_any("these failed")


@pytest.mark.parametrize("error", ENDS_ALL, ids=repr)
def test_what_no_other_part_would_get_past_ends_all(error):
    failures = Failures()
    with pytest.raises(type(error)), failures.contained("one", "one: failed"):
        raise error
    failures.raise_any("nothing is noted")


def failing(function: Callable[..., object], name: str = "int1-lora") -> Callable[..., object]:
    """The function, which fails for the combination of that name."""

    def called(*arguments: object, **options: object) -> object:
        if any(getattr(getattr(one, "combination", one), "name", "") == name for one in arguments):
            raise RuntimeError("a layer of one's own fails")
        return function(*arguments, **options)

    return called


STAGES = {
    "when it begins": (study_run, "study_facts"),
    "when it is searched": (Coordinator, "run"),
    "when its winners are tested": (study_run, "score_winners"),
    "when its spectra are recorded": (study_run, "record_winners"),
}


@pytest.mark.parametrize(("where", "function"), STAGES.values(), ids=STAGES)
def test_a_combination_that_fails_in_a_run_leaves_the_others_done(where, function, monkeypatch):
    write_study(trials=2)
    with monkeypatch.context() as patched:
        patched.setattr(where, function, failing(getattr(where, function)))
        result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 6, result.stderr
    assert "these combinations failed, the others are done: 'int1-lora': RuntimeError: a layer" in result.stderr
    assert winners_tested()["sparse-lora"]
    assert winners_tested().get("int1-lora", False) == (function == "record_winners")
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0, "the next run does what is missing"
    assert all(winners_tested().values())


def test_a_combination_none_of_whose_trials_is_complete_has_failed():
    path = write_study(trials=2)
    diverging = 'adapter = "lora"\ntargets = ["fc1"]\n\n[search]', "lr = { low = 1e-3, high = 1e-2, log = true }"
    text = path.read_text()
    assert all(one in text for one in diverging)
    path.write_text(text.replace(diverging[0], 'adapter = "none"\n\n[search]').replace(diverging[1], "lr = 1e30"))
    for _ in range(2):  # running again changes nothing, and says it again
        result = invoke("run", "tiny", "--device", "cpu")
        assert result.exit_code == 6
        assert "the others are done: 'int1-lora': no trial is complete (4 failed: loss nan" in result.stderr
        assert "search.lr" in result.stderr
        assert winners_tested()["sparse-lora"]


def winners_tested() -> dict[str, bool]:
    """Whether all winners of each combination are tested."""
    storage = open_storage("sqlite:///storage/studies.db", "read")
    found = {one.name: all(cell.tested for cell in one.cells) for one in read_results(storage, "tiny")}
    storage.remove_session()
    storage.engine.dispose()
    return found


@pytest.mark.parametrize("function", ["recover", "make_card", "pack_model", "write_checkpoint"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_others_written(function, monkeypatch):
    write_study(trials=2)
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    calls = iter(range(10))

    def failing_first(*arguments: object, **options: object) -> object:
        if next(calls) == 0:
            raise RuntimeError("a layer of one's own fails")
        return called(*arguments, **options)

    called = getattr(selection, function)
    monkeypatch.setattr(selection, function, failing_first)
    result = invoke("export", "tiny", "--device", "cpu", "--json")
    assert result.exit_code == 6
    assert "these combinations failed, the others are exported: 'int1-lora': trials that cannot" in result.stderr
    written = [entry["folder"] for entry in json.loads(result.stdout)]
    assert written == [str(Path("storage/exports/tiny") / name) for name in OTHERS]
    assert sorted(map(str, Path("storage/exports").glob("*/*/rank-*"))) == sorted(written)


OTHERS = ["int1-lora/rank-2", "sparse-lora/rank-1", "sparse-lora/rank-2"]
