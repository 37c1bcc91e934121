import copy
import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.spec import StudySpec
from pipeline.config.study_file import load_spec, parse_spec, pinned, upgraded
from pipeline.errors import SpecError
from pipeline.hashes import fingerprint

TABLE: dict[str, Any] = {
    "name": "study",
    "task": {
        "model": {"source": "mlp", "widths": [784, 32, 10]},
        "data": {"source": "mnist"},
        "split": {"val": 0.2},
        "baseline": {"epochs": 2},
    },
    "combination": [
        {"name": "one", "compression": {"method": "int1", "metric": "activation"}, "adapter": "lora"},
        {"name": "two", "compression": "sparse", "adapter": {"method": "lora"}, "targets": ["fc1", "fc2"]},
    ],
    "search": {
        "ranks": [1, 8],
        "inits": ["svd", {"method": "paper", "sigma": 0.1}],
        "alpha": 8,
        "optimizer": ["adam", "sgd"],
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": [32],
        "epochs": 3,
        "trials": 9,
    },
}


def table(**changes: Any) -> dict[str, Any]:
    """The study above, with values in other places: ``search__lr=0`` sets ``search.lr``."""
    changed = copy.deepcopy(TABLE)
    for path, value in changes.items():
        *parents, key = path.split("__")
        inner = changed
        for parent in parents:
            inner = inner[int(parent) if parent.isdigit() else parent]
        inner[key] = value
    return changed


def errors(changed: dict[str, Any]) -> list[str]:
    """What is said of a study, a line each."""
    with pytest.raises(SpecError) as raised:
        parse_spec(changed, "studies/study.toml")
    first, *lines = str(raised.value).splitlines()
    assert first == f"studies/study.toml: {len(lines)} error{'s' * (len(lines) > 1)}"
    assert raised.value.exit_code == 3
    return [line.strip() for line in lines]


WRONG = {
    "unknown key": ({"search__rnks": [1]}, "search.rnks = [1]: unknown key; did you mean 'ranks'?; allowed: ranks"),
    "unknown table": ({"serach": {}}, "serach = {}: unknown key; did you mean 'search'?"),
    "unknown option": ({"combination__0__compression__scal": 1}, "compression.scal = 1: unknown key; did you"),
    "typo of a choice": ({"search__schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
    "typo in a list": ({"search__optimizer": ["adm"]}, 'search.optimizer.0 = "adm": unknown optimizer \'adm\'; did'),
    "typo of an option": (
        {"combination__0__compression__metric": "activatoin"},
        "compression.metric = \"activatoin\": must be 'weight' or 'activation'; did you mean 'activation'?",
    ),
    "wrong type": ({"search__epochs": "3"}, 'search.epochs = "3": must be a valid integer'),
    "no table": ({"search__alpha": "big"}, 'search.alpha = "big": must be a table'),
    "no list": ({"search__ranks": 4}, "search.ranks = 4: must be a list"),
    "truth for a number": ({"search__lr": True}, "search.lr = true: must be a table"),
    "rank 0": ({"search__ranks": [4, 0]}, "search.ranks.1 = 0: must be greater than or equal to 1"),
    "rank -1": ({"search__ranks": [-1]}, "search.ranks.0 = -1: must be greater than or equal to 1"),
    "rank 1.5": ({"search__ranks": [1.5]}, "search.ranks.0 = 1.5: must be a valid integer"),
    "rank in quotes": ({"search__ranks": ["8"]}, 'search.ranks.0 = "8": must be a valid integer'),
    "rank true": ({"search__ranks": [True]}, "search.ranks.0 = true: must be a valid integer"),
    "alpha 0": ({"search__alpha": 0}, "search.alpha.low = 0: must be greater than 0"),
    "lr 0": ({"search__lr": 0.0}, "search.lr.low = 0.0: must be greater than 0"),
    "lr negative": ({"search__lr": {"low": -0.1, "high": 1}}, "search.lr.low = -0.1: must be greater than 0"),
    "lr infinite": ({"search__lr": math.inf}, "search.lr.low = Infinity: must be a finite number"),
    "low above high": ({"search__lr": {"low": 2, "high": 1}}, "search.lr = {\"low\": 2, \"high\": 1}: low = 2.0 is"),
    "log from 0": ({"search__lr": {"low": 0, "high": 1, "log": True}}, "search.lr.low = 0: must be greater than 0"),
    "half a range": ({"search__lr": {"low": 1}}, "search.lr.high: required, and not given"),
    "no ranks": ({"search__ranks": []}, "search.ranks = []: must hold at least one"),
    "no inits": ({"search__inits": []}, "search.inits = []: must hold at least one"),
    "no combination": ({"combination": []}, "combination = []: must hold at least one"),
    "rank twice": ({"search__ranks": [1, 2, 1]}, "search.ranks = [1, 2, 1]: each choice once; repeated: 1"),
    "init twice": ({"search__inits": ["svd", "svd"]}, 'search.inits = ["svd", "svd"]: each choice once; repeated: svd'),
    "optimizer twice": ({"search__optimizer": ["sgd", "sgd"]}, "repeated: sgd"),
    "init twice with other options": (
        {"search__inits": ["paper", {"method": "paper", "sigma": 1.0}]},
        "inits: each init once; given: paper, paper",
    ),
    "epochs 0": ({"search__epochs": 0}, "search.epochs = 0: must be greater than or equal to 1"),
    "trials 0": ({"search__trials": 0}, "search.trials = 0: must be greater than or equal to 1"),
    "batch 0": ({"search__batch_size": [0]}, "search.batch_size.0 = 0: must be greater than or equal to 1"),
    "typo of a sampler": ({"search__sampler": {"method": "tp"}}, "unknown sampler 'tp'; did you mean 'tpe'?"),
    "typo of a pruner": ({"search__pruner": "halfing"}, "unknown pruner 'halfing'; did you mean 'halving'?"),
    "option of another pruner": ({"search__pruner": {"method": "none", "frist": 1}}, "pruner.frist = 1: unknown key"),
    "typo of an allocation": ({"search__allocation": "gian"}, "unknown allocation 'gian'; did you mean 'gain'?"),
    "unknown init": ({"search__inits": ["svdd"]}, "\"svdd\": unknown init 'svdd'; did you mean 'svd'?"),
    "unknown adapter": ({"combination__0__adapter": "lorra"}, "unknown adapter 'lorra'; did you mean 'lora'?"),
    "unknown compression": ({"combination__1__compression": "tuo"}, "unknown compression 'tuo'; did you mean 'tou'?"),
    "unknown model": ({"task__model": {"source": "tim"}}, "unknown model source 'tim'; did you mean 'timm'?"),
    "unknown data": ({"task__data": "mnits"}, "task.data = \"mnits\": unknown data set 'mnits'; did you mean 'mnist'?"),
    "no method named": ({"combination__0__adapter": {"rank": 1}}, 'give a name, or a table with method = "<name>"'),
    "val 1": ({"task__split__val": 1.0}, "task.split.val = 1.0: must be less than 1"),
    "combination twice": ({"combination__1__name": "one"}, "each choice once; repeated: one"),
    "version of the future": ({"version": 2}, "version = 2: must be 1"),
    "no layers of spectra": ({"spectra": {"layers": []}}, "spectra.layers = []: must hold at least one"),
    "no spectral value": ({"spectra": {"layers": ["*"], "values": 0}}, "spectra.values = 0: must be greater than or"),
    "seed negative": ({"seed": -1}, "seed = -1: must be greater than or equal to 0"),
    "block of a compression": (
        {"combination__1__compression": {"method": "sparse", "block": "4x"}},
        "combination 'two'.compression.block = \"4x\": give a tile",
    ),
    "a rank for a dense layer": (
        {"combination__0__targets": [{"match": "fc1", "rank": 2, "dense": True}]},
        "a dense layer has no adapter, so no rank = 2; give one of the two",
    ),
    "typo of a target's option": (
        {"combination__0__targets": ["*", {"match": "fc1", "rnak": 2}]},
        "combination 'one'.targets.1.rnak = 2: unknown key; did you mean 'rank'?",
    ),
    "rank 0 of a target": (
        {"combination__0__targets": [{"match": "fc1", "rank": 0}]},
        "combination 'one'.targets.0.rank = 0: must be greater than or equal to 1",
    ),
    "options for no layer": (
        {"combination__0__targets": [{"rank": 2}]},
        "combination 'one'.targets.0.match: required, and not given",
    ),
    "an empty target": ({"combination__0__targets": [""]}, "should have at least 1 character"),
    "a number for a target": ({"combination__0__targets": [3]}, "targets.0 = 3: must be a table"),
    "target twice": ({"combination__0__targets": ["fc1", "fc1"]}, "each choice once; repeated: fc1"),
    "typo of qkv": ({"combination__0__qkv": "spilt"}, "\"spilt\": must be 'fused' or 'split'; did you mean 'split'?"),
    "no start left to the sampler": (
        {"search__sampler": {"startup": 9}},
        "search.sampler.startup = 9: leaves none of the 9 trials of a cell to the sampler; lower it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_fault_19_what_is_wrong_is_named_with_its_key_its_value_and_what_is_allowed(changes, said):
    lines = errors(table(**changes))
    assert any(said in line for line in lines)
    # A fixed alpha or rate is a range from it to it, and wrong at both ends.
    assert len({line.replace(".high", ".low") for line in lines}) == 1


@pytest.mark.parametrize(("path", "typo"), [("search__lr", "search__lrate"), ("search", "serach")])
def test_a_misspelt_key_is_one_error_and_not_also_a_missing_key(path, typo):
    changed = table()
    *parents, key = path.split("__")
    inner = changed[parents[0]] if parents else changed
    inner[typo.split("__")[-1]] = inner.pop(key)
    (line,) = errors(changed)
    assert f"unknown key; did you mean '{key}'?" in line


def test_a_missing_key_is_an_error_beside_a_misspelt_one_that_is_not_like_it():
    changed = table(search__rnks=[1])
    del changed["search"]["lr"]
    assert [line.partition(":")[0] for line in errors(changed)] == ["search.rnks = [1]", "search.lr"]


def test_fault_19_all_errors_are_said_at_once():
    changes = {"combination__1__targets": []}
    for name in ("unknown key", "rank 1.5", "lr 0", "epochs 0", "unknown data", "typo of an option"):
        changes |= WRONG[name][0]
    changed = table(**changes)
    del changed["name"]
    found = " ".join(errors(changed))
    for key in ("search.rnks", "search.ranks.0", "search.lr.low", "search.epochs", "task.data", "compression.metric"):
        assert key in found
    assert "combination 'two'.targets" in found
    assert "name: required, and not given" in found


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../up", ".hidden", "two words", "x" * 300, "", "line\n", "-flag", "é", 7]
)
@pytest.mark.parametrize(
    ("key", "place"), [("name", "name"), ("combination__0__name", "combination no. 1.name")]
)  # fmt: skip
def test_fault_22_a_name_that_could_leave_its_folder_is_refused(key, place, name):
    (line,) = errors(table(**{key: name}))
    assert line.startswith(f"{place} = {json.dumps(name)[:50]}")


@pytest.mark.parametrize("name", ["a", "mnist-mlp_2.1", "x" * 64])
def test_a_name_of_letters_digits_and_marks_is_taken(name):
    assert parse_spec(table(name=name), "").name == name


def test_random_search_may_be_all_start_up():
    assert parse_spec(table(search__sampler={"method": "random", "startup": 9}), "").search.trials == 9


def test_a_number_is_a_range_of_one_value():
    alpha = parse_spec(TABLE, "").search.alpha
    assert (alpha.low, alpha.high, alpha.log) == (8, 8, False)


def test_a_combination_is_found_by_name_and_the_others_are_named_where_it_is_not():
    spec = parse_spec(TABLE, "")
    assert spec.find("two").compression.name == "sparse"
    with pytest.raises(SpecError, match="study 'study' has no combination 'three'; it has: one, two"):
        spec.find("three")


def test_the_fingerprint_stays_what_it_was_and_does_not_know_the_order_of_keys():
    assert fingerprint({"b": [1, 2.5], "a": "x"}) == fingerprint({"a": "x", "b": [1, 2.5]})
    assert fingerprint({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()


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


def toml(value: Any) -> str:
    """A JSON-able value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def as_toml(spec: StudySpec) -> str:
    return "\n".join(f"{key} = {toml(value)}" for key, value in spec.model_dump(mode="json", exclude_none=True).items())


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
