import json
import tomllib
from pathlib import Path

import pytest
from spec_tables import TABLE, as_toml, table

from pipeline.config.spec import StudySpec
from pipeline.config.study_file import load_spec, parse_spec, pinned, upgraded
from pipeline.errors import SpecError

FREE = {
    "name": "other",
    "seeds": 3,
    "search__trials": 50,
    "spectra": {"layers": ["fc1"]},
    "task__data__root": "/elsewhere",
    "task__data__download": True,
}


@pytest.mark.parametrize("free", FREE)
def test_a_study_may_grow_and_move_without_becoming_another(free):
    before, after = parse_spec(TABLE, ""), parse_spec(table(**{free: FREE[free]}), "")
    assert before != after
    assert pinned(before, before.find("one")) == pinned(after, after.find("one"))


PINNED = {
    "seed": 1,
    "search__ranks": [1, 4],
    "search__lr": 0.1,
    "search__epochs": 4,
    "search__ask_ahead": 2,
    "search__sampler": {"startup": 2},
    "task__split__seed": 1,
    "task__model__widths": [784, 10],
    "combination__0__targets": [{"match": "*", "rank": 2}],
    "combination__0__qkv": "split",
    "combination__0__compression__metric": "weight",
}


@pytest.mark.parametrize("key", PINNED)
def test_what_changes_the_question_changes_what_is_pinned(key):
    before, after = parse_spec(TABLE, ""), parse_spec(table(**{key: PINNED[key]}), "")
    assert pinned(before, before.find("one")) != pinned(after, after.find("one"))
    same = key.startswith("combination")
    assert (pinned(before, before.find("two")) == pinned(after, after.find("two"))) is same


def test_defaults_are_pinned_with_their_values():
    spec = parse_spec(TABLE, "")
    table = pinned(spec, spec.find("two"))
    assert table["combination"]["compression"] == {"method": "sparse", "block": "4x4", "score": "abs", "refit": False}
    assert table["search"]["sampler"] == {"method": "tpe", "startup": 4}
    assert json.loads(json.dumps(table)) == table


def test_a_target_without_options_is_pinned_as_the_plain_string_it_was():
    entries = ["*", {"match": "fc1"}, {"match": "fc2", "rank": 2}, {"match": "fc3", "dense": True}]
    spec = parse_spec(table(combination__1__targets=entries), "")
    assert pinned(spec, spec.find("one"))["combination"]["targets"] == ["*"]
    assert pinned(spec, spec.find("two"))["combination"]["targets"] == ["*", "fc1", *entries[2:]]
    assert StudySpec.model_validate(tomllib.loads(as_toml(spec))) == spec


OLD_PRUNERS = {
    "none": {"method": "none", "first": 1, "factor": 3},
    "median": {"method": "median", "first": 2, "factor": 3},
    "halving": {"method": "halving", "first": 1, "factor": 3},
}


@pytest.mark.parametrize("name", OLD_PRUNERS)
def test_a_study_that_was_stored_when_all_pruners_had_the_same_options_goes_on(name):
    spec = parse_spec(table(search__pruner=OLD_PRUNERS[name]), "")
    stored = pinned(spec, spec.find("two"))
    stored["search"]["pruner"] = OLD_PRUNERS[name]
    assert upgraded(stored) == pinned(spec, spec.find("two"))


def test_what_is_pinned_of_a_search_has_the_form_of_earlier_versions():
    changes = {"search__schedule": "cosine", "search__allocation": "gain", "search__ranks": [100]}
    spec = parse_spec(table(**changes), "")
    search = pinned(spec, spec.find("two"))["search"]
    assert search["optimizer"] == ["adam", "sgd"]
    assert search["schedule"] == "cosine"
    assert search["sampler"] == {"method": "tpe", "startup": 4}
    assert search["pruner"] == {"method": "halving", "first": 1, "factor": 3}
    assert search["allocation"] == {"by": "gain", "unit": "bytes"}


def test_a_study_that_was_stored_before_qkv_could_be_split_goes_on():
    spec = parse_spec(TABLE, "")
    stored = pinned(spec, spec.find("two"))
    del stored["combination"]["qkv"]
    assert upgraded(stored) == pinned(spec, spec.find("two"))


def test_a_study_written_as_toml_and_read_again_is_the_same(tmp_path):
    spec = parse_spec(TABLE, "")
    (tmp_path / "any.toml").write_text(as_toml(spec))
    assert load_spec(tmp_path / "any.toml") == spec


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("studies/*.toml")), ids=lambda path: path.stem)
def test_the_studies_of_this_house_are_valid_and_named_like_their_files(path):
    spec = load_spec(path)
    assert spec.name == path.stem
    assert StudySpec.model_validate(tomllib.loads(as_toml(spec))) == spec


def test_a_file_gives_its_name_to_a_study_without_one_and_a_given_seed_takes_the_place_of_its_own(tmp_path):
    (tmp_path / "mine.toml").write_text(as_toml(parse_spec(TABLE, "")).replace('name = "study"\n', ""))
    assert load_spec(tmp_path / "mine.toml").name == "mine"
    assert load_spec(tmp_path / "mine.toml", seed=7).seed == 7


@pytest.mark.parametrize(
    ("content", "said"), [(b"name = ", "is not valid TOML"), (b"\xff\xfe", "cannot read study file")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, said):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=said) as raised:
        load_spec(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_said_with_the_nearest_that_is(tmp_path):
    (tmp_path / "quickstart.toml").write_text("")
    with pytest.raises(SpecError, match=r"quikstart.toml not found; did you mean 'quickstart'\?"):
        load_spec(tmp_path / "quikstart.toml")
