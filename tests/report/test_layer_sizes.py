from dataclasses import replace

import pytest

from pipeline.report.figures.contract import PICTURES, NothingToDraw
from pipeline.results.reading import read_results

layer_sizes = PICTURES["layer_sizes"]().draw


def bars(figure, axis="x"):
    return {trace.name: list(trace.x) for trace in figure.data if trace.type == "bar" and trace.xaxis == axis}


def test_each_layer_has_its_parts_with_the_adapter_of_the_best_trial_and_says_what_it_was(store, storage):
    stored = store()
    stored.layers("fc1", "fc2")
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    stored.trial(8, "paper", 0.95)
    figure = layer_sizes(read_results(storage, "digits"))
    assert bars(figure) == {"payload": [125, 250], "scale": [40, 40], "bias": [400, 400], "adapter": [640, 640]}
    text = figure.data[-1]
    assert list(text.x) == [1205, 1330]
    assert list(text.text) == [" 4.4 kB ÷ 3.7", " 8.4 kB ÷ 6.3"]
    assert text.hovertext[0].startswith("fc1<br>1,205 of 4,400 bytes<br>payload: 125 bytes<br>")
    assert figure.layout.annotations[0].text == "int1-lora<br>with rank 8, paper"
    assert figure.layout.yaxis.ticktext == ("fc1", "fc2")


def test_before_a_trial_is_complete_the_layers_stand_without_adapter(store, storage):
    store().layers("fc1")
    figure = layer_sizes(read_results(storage, "digits"))
    assert list(bars(figure)) == ["payload", "scale", "bias"]
    assert figure.layout.annotations[0].text == "int1-lora<br>no adapter yet"


def test_combinations_stand_side_by_side_and_a_layer_that_one_has_not_leaves_its_row_empty(store, storage):
    store().layers("fc1", "fc2")
    store(combination="other").layers("fc2", "head")
    figure = layer_sizes(read_results(storage, "digits"))
    assert figure.layout.yaxis.ticktext == ("fc1", "fc2", "head")
    assert [list(trace.y) for trace in figure.data if trace.name == "payload"] == [[0, 1], [1, 2]]
    assert [trace.showlegend for trace in figure.data if trace.name == "payload"] == [True, False]


def test_the_table_says_that_its_bytes_are_those_before_entropy_coding(store, storage):
    store().layers("fc1")
    (result,) = read_results(storage, "digits")
    table = {"coding": "rans", "small": "float16"}
    combination = {**result.facts["pinned"]["combination"], "storage": table}
    coded = replace(result, facts={**result.facts, "pinned": {**result.facts["pinned"], "combination": combination}})
    captions = [PICTURES["layer_sizes"]().below([one])[0].blocks[0].caption for one in (result, coded)]
    assert ["before entropy coding" in caption for caption in captions] == [False, True]


def test_a_hundred_layers_make_the_picture_higher(store, storage):
    store().layers("fc1")
    store(combination="deep").layers(*(f"blocks.{n}.mlp" for n in range(100)))
    one, deep = read_results(storage, "digits")
    assert layer_sizes([deep]).layout.height - layer_sizes([one]).layout.height > 1500


def test_a_study_of_an_older_version_has_no_such_picture(store, storage):
    store().trial(2, "svd", 0.9)
    with pytest.raises(NothingToDraw, match="no sizes of layers are stored; an older version ran the study"):
        layer_sizes(read_results(storage, "digits"))


def test_a_cell_whose_init_moves_the_base_has_its_own_sizes(store, storage):
    stored = store()
    moved = {"payload": 7, "index": 0, "scale": 1, "bias": 2, "adapter": 5}
    stored.layers("fc1", cells={"rank 8 paper": moved})
    stored.trial(8, "paper", 0.95)
    figure = layer_sizes(read_results(storage, "digits"))
    assert bars(figure) == {"payload": [7], "scale": [1], "bias": [2], "adapter": [5]}


def test_the_table_has_the_sizes_of_cells_whose_init_moves_the_base(store, storage):
    stored = store()
    moved = {"payload": 700, "index": 0, "scale": 1, "bias": 2, "adapter": 5}
    stored.layers("fc1", "fc2", cells={"rank 8 paper": moved})
    stored.trial(8, "paper", 0.95)
    (folded,) = PICTURES["layer_sizes"]().below(read_results(storage, "digits"))
    (shown,) = folded.blocks
    assert "cells whose init moves the base have sizes of their own" in str(shown)
    assert "all of it, rank 8 paper" in str(shown)
    assert "1.42" in str(shown)
