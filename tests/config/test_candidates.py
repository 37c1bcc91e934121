import pickle

import pytest
from tiny_studies import make_spec

from pipeline.config.candidates import choices
from pipeline.config.registry import COMPRESSIONS, INITS
from pipeline.config.study_file import as_begun, pinned
from pipeline.errors import SpecError

AUTO = {"method": "int1", "metric": "auto", "rounding": "auto", "bias": "auto"}


def combination(compression):
    return make_spec(combination={"compression": compression}).combination[0]


def candidates_of(compression):
    (auto,) = combination(compression).autos
    return auto.candidates


def test_auto_stands_for_every_value_of_a_choice_the_default_first():
    assert choices(COMPRESSIONS["int1"], "rounding") == ["nearest", "gptq", "coordinate"]
    assert choices(COMPRESSIONS["intN"], "clip") == [True, False]
    assert choices(COMPRESSIONS["int1"], "ridge") == [0.0, 1.0, 5.0]
    assert choices(COMPRESSIONS["int1"], "prefix") == []
    found = candidates_of(AUTO)
    assert len(found) == 12
    assert found[0].options == {"metric": "weight", "rounding": "nearest", "bias": "kept"}
    assert combination(AUTO).compression == found[0].config == COMPRESSIONS.parse("int1")


def test_options_that_do_not_go_together_are_no_candidates():
    found = candidates_of({"method": "int1", "metric": "auto", "ridge": "auto"})
    assert [tuple(one.options.values()) for one in found] == [
        ("weight", 0.0), ("activation", 0.0), ("activation", 1.0), ("activation", 5.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({**AUTO, "scale": "rwo"}, "compression.scale"),
        ({**AUTO, "prefix": "auto"}, "compression.prefix"),
        ({**AUTO, "colour": "auto"}, "compression.colour"),
        ({"method": ["int1"]}, 'give a name, or a table with method = "<name>"'),
    ],
)
def test_an_error_of_another_option_is_the_only_one_that_is_reported(table, said):
    with pytest.raises(SpecError, match="1 error\n") as refused:
        combination(table)
    assert said in str(refused.value)


def test_a_combination_without_auto_has_no_candidates_and_pins_what_it_did():
    plain, auto = make_spec(), make_spec(combination={"compression": AUTO})
    assert plain.combination[0].autos == ()
    assert pinned(auto, auto.combination[0]) == pinned(plain, plain.combination[0])


def test_a_copy_by_pickle_keeps_its_candidates():
    one = combination(AUTO)
    assert pickle.loads(pickle.dumps(one)).autos == one.autos


def test_a_stored_study_goes_on_with_the_options_that_it_pinned():
    spec = make_spec(combination={"compression": AUTO})
    one = spec.combination[0]
    taken = candidates_of(AUTO)[7].config
    begun = as_begun(spec, {one.name: pinned(spec, one.having([taken]))}).combination[0]
    assert (begun.compression, begun.autos) == (taken, ())
    other = make_spec(combination={"compression": "intN"})
    first = as_begun(spec, {one.name: pinned(other, other.combination[0])}).combination[0]
    assert (first.compression, first.autos) == (one.compression, ())
    assert as_begun(spec, {}) == spec


def test_compressions_of_targets_have_candidates_and_are_pinned_too():
    own = {"match": "fc2", "compression": {"method": "intN", "rounding": "auto"}}
    spec = make_spec(combination={"compression": AUTO, "targets": ["*", own]})
    one = spec.combination[0]
    common, entry = one.autos
    assert (len(common.candidates), len(entry.candidates)) == (12, 3)
    assert entry.named(entry.candidates[0]) == {"rounding of fc2": "nearest"}
    chosen = one.having([common.candidates[3].config, entry.candidates[2].config])
    table = pinned(spec, chosen)
    assert table["combination"]["targets"][1]["compression"]["rounding"] == "coordinate"
    begun = as_begun(spec, {one.name: table}).combination[0]
    assert (begun.compression, begun.targets, begun.autos) == (chosen.compression, chosen.targets, ())
    fewer = make_spec(combination={"compression": AUTO, "targets": ["*", "fc2"]})
    first = as_begun(spec, {one.name: pinned(fewer, fewer.combination[0])}).combination[0]
    assert first.targets[1].compression == entry.candidates[0].config


def test_an_init_that_is_auto_stands_for_all_and_the_chosen_one_is_pinned():
    spec = make_spec(inits="auto")
    assert {init.name for init in spec.search.init_candidates} == {init.name for init in INITS}
    one = spec.combination[0].starting(INITS.parse("qera"))
    table = pinned(spec, one)
    assert [init["method"] for init in table["search"]["inits"]] == ["qera"]
    begun = as_begun(spec, {one.name: table})
    assert pinned(begun, begun.combination[0]) == table
    assert [init.name for init in begun.combination[0].searched(begun.search).inits] == ["qera"]


def test_an_init_that_is_auto_stands_alone():
    with pytest.raises(SpecError, match=r"unknown init 'auto'"):
        make_spec(inits=["svd", "auto"])
