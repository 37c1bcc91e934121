from tiny_studies import make_objective, make_spec

from pipeline.cell import Cell
from pipeline.results.combination_result import bytes_with_adapter
from pipeline.run.study_facts import layer_bytes, study_facts

BY_ENERGY = {"compression": {"method": "svd", "energy": 0.8}}


def test_the_stored_bytes_of_layers_add_up_to_those_of_each_cell_where_its_init_moves_the_base():
    """Energy decides the rank of the factors, so a moved base has other sizes than the compressed weight."""
    combination = make_objective(make_spec(combination=BY_ENERGY, inits=["pissa", "svd"])).combination
    layers = layer_bytes(combination)
    for init in ("pissa", "svd"):
        for rank in (1, 2):
            cell = Cell(rank, init)
            stored = sum(sum(bytes_with_adapter(layer, cell).values()) for layer in layers)
            assert stored == combination.facts(cell).size.layer_bytes
    moved, common = (combination.facts(Cell(2, init)).size.layer_bytes for init in ("pissa", "svd"))
    assert moved != common


def test_a_base_that_is_sized_by_its_shape_has_one_size_for_all_cells():
    combination = make_objective(make_spec(inits=["pissa", "svd"])).combination
    assert all("cells" not in layer for layer in layer_bytes(combination))


def test_the_stored_epochs_are_those_that_a_trial_trains():
    for adapter, epochs in (("lora", 3), ("none", 1)):
        spec = make_spec(combination={"adapter": adapter})
        assert study_facts(spec, make_objective(spec).combination)["epochs"] == epochs
