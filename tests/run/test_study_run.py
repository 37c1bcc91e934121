import json
from pathlib import Path

import optuna
import pytest
from command import invoke, write_study

from pipeline.config.study_file import load_spec
from pipeline.errors import IntegrityError
from pipeline.results.combination_result import latest_run
from pipeline.results.reading import read_results
from pipeline.run.study_run import RunOptions, run_study


@pytest.fixture
def path() -> Path:
    """A study of one combination."""
    path = write_study()
    text = path.read_text()
    first, _, rest = text.partition('[[combination]]\nname = "sparse-lora"')
    path.write_text(first + rest[rest.index("[search]") :])
    return path


def stored_run(storage):
    return latest_run(read_results(storage, "tiny"))


def test_an_idle_run_of_an_exhausted_study_leaves_what_is_stored_of_the_run_that_searched(path, open_database):
    rates = "lr = { low = 1e-3, high = 1e-2, log = true }"
    path.write_text(path.read_text().replace(rates, "lr = 1e38").replace('"adam"', '"sgd"'))
    with pytest.raises(IntegrityError, match="no trial is complete"):
        run_study(load_spec(path), options=RunOptions(command="the first"))
    (part,) = json.loads(invoke("status", "tiny", "--json").stdout)
    assert all(cell["exhausted"] and cell["states"]["complete"] < cell["budget"] for cell in part["cells"])
    storage = open_database("storage/studies")
    before = stored_run(storage)
    with pytest.raises(IntegrityError, match="no trial is complete"):
        run_study(load_spec(path), options=RunOptions(command="the second"))
    assert stored_run(storage) == before
    assert before["command"] == "the first"


def test_a_run_that_searches_stores_its_command(path, open_database):
    run_study(load_spec(path), options=RunOptions(command="the first"))
    path.write_text(path.read_text().replace("trials = 2", "trials = 3"))
    run_study(load_spec(path), options=RunOptions(command="the second"))
    run = stored_run(open_database("storage/studies"))
    assert (run["command"], run["done"]) == ("the second", 8)


@pytest.mark.parametrize("mark", ["trial", "attribute"])
def test_a_study_of_the_same_name_that_another_program_created_is_refused_and_left_alone(path, open_database, mark):
    Path("storage").mkdir()
    foreign = optuna.create_study(
        storage=open_database("storage/studies"), study_name="tiny/int1-lora", direction="maximize"
    )
    if mark == "trial":
        foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    else:
        foreign.set_user_attr("owner", "someone else")
    attributes, trials = foreign.user_attrs, foreign.trials
    result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 3
    assert "a study 'tiny/int1-lora' that another program created" in result.stderr
    assert "--storage" in result.stderr
    assert (foreign.user_attrs, foreign.trials) == (attributes, trials)
