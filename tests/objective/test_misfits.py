"""What does not go together is refused before the first trial, by the name of its combination."""

import pytest
from tiny_studies import BatchNormNet, make_objective, make_spec, make_task

from pipeline.errors import SpecError
from pipeline.objective.combination import Combination
from pipeline.run.objectives import as_objectives, make_combinations, refuse_misfit_training, refuse_misfits

PAIRS = {
    "factors are wanted, and there are none": ({"adapter": "tou"}, "combination 'int1-lora': adapter 'tou'"),
    "one scale for all rows": (
        {"compression": {"method": "int1", "scale": "tensor"}, "adapter": {"method": "lora", "scales": True}},
        "combination 'int1-lora': adapter.scales",
    ),
}
MODELS = {
    "no attention": ({"qkv": "split"}, 'leave it "fused"'),
    "no batch norm": ({"batch_norm": "reestimated"}, 'leave it "kept"'),
}


@pytest.mark.parametrize(("combination", "said"), PAIRS.values(), ids=PAIRS)
def test_a_compression_and_an_adapter_that_do_not_go_together_are_refused(combination, said):
    objective = make_objective(make_spec(combination=combination))
    with pytest.raises(SpecError, match=said):
        refuse_misfits([objective.combination])


@pytest.mark.parametrize(("combination", "said"), MODELS.values(), ids=MODELS)
def test_an_option_that_would_change_nothing_of_the_model_is_refused(combination, said):
    with pytest.raises(SpecError, match=said):
        make_objective(make_spec(combination=combination))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ranks": [999]}, r"search\.ranks = \[999\] is above what any target can take"),
        ({"loss": {"method": "distillation", "features": ["nope"]}}, r"search\.loss\.features names 'nope'"),
        ({"combination": {"adapter": {"method": "lora", "scales": True}}, "storage": {"small": "float16"}}, "storage"),
        ({"combination": {"adapter": "tou"}}, "adapter 'tou'"),
    ],
    ids=["a rank", "a block", "a storage", "an adapter"],
)
def test_a_fault_that_several_combinations_have_is_said_once_with_their_names(changes, said):
    spec = make_spec(**changes)
    first = spec.combination[0]
    spec = spec.model_copy(update={"combination": tuple(first.model_copy(update={"name": name}) for name in "abc")})

    def prepare() -> None:
        combinations = make_combinations(Combination, spec, make_task(), "cpu")
        refuse_misfits(combinations.values())
        refuse_misfit_training(as_objectives(spec, combinations, "cpu"))

    with pytest.raises(SpecError, match=f"^combinations 'a', 'b' and 'c': {said}") as raised:
        prepare()
    assert "\n" not in str(raised.value)


def test_what_goes_together_is_not():
    objective = make_objective(make_spec(combination={"batch_norm": "reestimated"}), make_task(BatchNormNet))
    refuse_misfits([objective.combination])


def test_damaged_weights_are_left_to_fail_their_combination_alone():
    task = make_task(BatchNormNet)
    objective = make_objective(make_spec(), task)
    objective.combination.model = objective.combination.model.__class__()
    objective.combination.model.conv1.weight.data.fill_(float("nan"))
    refuse_misfits([objective.combination])
