import hashlib
import json
import math
from typing import Any

import pytest
from spec_tables import TABLE, table

from pipeline.config.study_file import parse_spec
from pipeline.errors import SpecError
from pipeline.hashes import fingerprint


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
    "val 1": ({"task__split__val": 1.0}, "task.split.val = 1.0: must be greater than 0 and less than 1"),
    "auto for a number": (
        {"combination__1__compression": {"method": "codebook", "size": "auto"}},
        'compression.size = "auto": must be a valid integer, and cannot be "auto"',
    ),
    "combination twice": (
        {"combination__1__name": "one"},
        "each needs a name of its own, and several are called 'one'; rename them",
    ),
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


def test_a_fault_that_several_combinations_have_is_said_once_with_their_names():
    changes = {f"combination__{index}__adapter": {"method": "lora", "bais": True} for index in range(2)}
    (line,) = errors(table(**changes))
    assert line.startswith("combinations 'one' and 'two': adapter.bais = true: unknown key; did you mean 'bias'?")
    changes["combination__1__adapter"] = {"method": "lora", "bais": False}
    assert [line.partition(" =")[0] for line in errors(table(**changes))] == [
        "combination 'one'.adapter.bais",
        "combination 'two'.adapter.bais",
    ]
    changes = {f"combination__{index}__name": "" for index in range(2)}
    assert [line.partition(" =")[0] for line in errors(table(name="", **changes))] == [
        "name",
        "combinations no. 1 and no. 2: name",
    ]
    assert errors(table(combination=[3, 3])) == ["combinations no. 1 and no. 2 = 3: must be a table"]


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


@pytest.mark.parametrize(
    ("torch", "accepted"), [("2.6.0", False), ("2.7.1+cpu", False), ("2.8.0", True), ("2.15.0", True)]
)
def test_compilation_is_refused_where_the_compiler_gives_wrong_gradients(torch, accepted, monkeypatch):
    monkeypatch.setattr("pipeline.config.spec.version", lambda _: torch)
    compiled = table(compute={"compile": True})
    if accepted:
        assert parse_spec(compiled, "").compute.compile
    else:
        assert errors(compiled) == [
            f"compute.compile = true: torch {torch} compiles wrong gradients where trials of different ranks train "
            f"side by side; install torch 2.8 or newer, or leave compile out"
        ]
    assert not parse_spec(TABLE, "").compute.compile


def test_a_combination_is_found_by_name_and_the_others_are_named_where_it_is_not():
    spec = parse_spec(TABLE, "")
    assert spec.find("two").compression.name == "sparse"
    with pytest.raises(SpecError, match="study 'study' has no combination 'three'; it has: one, two"):
        spec.find("three")


def test_the_fingerprint_stays_what_it_was_and_does_not_know_the_order_of_keys():
    assert fingerprint({"b": [1, 2.5], "a": "x"}) == fingerprint({"a": "x", "b": [1, 2.5]})
    assert fingerprint({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()
