import pytest

from pipeline.report.figures.contract import PICTURES, NothingToDraw
from pipeline.results.reading import read_results
from pipeline.results.trained_layers import layer_rows

layer_errors = PICTURES["layer_errors"]().draw
accuracy_by_size = PICTURES["accuracy_by_size"]().draw


def tables(results):
    return [folded.blocks[0] for folded in PICTURES["layer_errors"]().below(results)]


@pytest.fixture
def beside(store, storage):
    """Trained codes, whose best trial is entropy-coded, beside a low-rank adapter."""
    lora = store(combination="lora", ranks=(2,), inits=("svd",))
    codes = store(combination="codes", ranks=(0,), inits=("none",))
    for stored, rank, init, more in ((lora, 2, "svd", {}), (codes, 0, "none", {"bytes": 12_345})):
        stored.references("val", 0.98, 0.4)
        number = stored.trial(rank, init, 0.9, **more)
        stored.trained_layers(rank, init, number, "fc1", "fc2", moved=None if rank else 0.25)
    return read_results(storage, "digits")


def test_each_layer_has_its_error_before_and_after_and_says_its_bits_and_what_moved(beside):
    figure = layer_errors(beside)
    before, after = ([t for t in figure.data if t.name == name] for name in ("compressed only", "trained"))
    assert [list(trace.x) for trace in before] == [[5, 10], [5, 10]]
    assert [list(trace.x) for trace in after] == [[4, 8], [4, 8]]
    assert [trace.showlegend for trace in before] == [True, False]
    texts = [list(trace.text) for trace in figure.data if trace.mode == "text"]
    assert [text.strip() for text in texts[0]] == ["6.44 bits", "3.88 bits"]
    assert [text.strip() for text in texts[1]] == ["1.32 bits, 25.0 % moved", "1.32 bits, 25.0 % moved"]
    assert before[0].hovertext[0] == (
        "fc1<br>compressed only: 5.00 % error<br>trained: 4.00 % error<br>weight: 1.320 bits a weight<br>"
        "adapter: 5.120 bits a weight"
    )
    assert before[1].hovertext[0].endswith("weight: 1.320 bits a weight<br>codes moved: 25.00 %")
    assert [note.text for note in figure.layout.annotations] == ["lora<br>rank 2, svd", "codes<br>no ranks"]


def test_the_tables_leave_out_what_no_layer_has(beside):
    lora, codes = tables(beside)
    assert list(lora.columns) == ["layer", "weights", "bits a weight", "adapter", "error before", "error after"]
    assert list(codes.columns) == ["layer", "weights", "bits a weight", "error before", "error after", "codes moved"]
    assert codes.rows[0].texts == ["fc1", "1,000", "1.320", "5.00", "4.00", "25.00"]
    assert (codes.rows[-1].texts[:3], codes.rows[-1].best) == (["all of them", "3,000", "1.320"], True)


def test_rows_have_every_winner_and_the_bits_of_codes_and_adapter(beside):
    rows = layer_rows(beside)
    assert [(row["combination"], row["rank"], row["layer"]) for row in rows] == [
        *(("lora", 2, layer) for layer in ("fc1", "fc2")),
        *(("codes", 0, layer) for layer in ("fc1", "fc2")),
    ]
    assert [row["adapter_bits_a_weight"] for row in rows] == [5.12, 2.56, 0, 0]
    assert [row["codes_moved"] for row in rows] == [None, None, 0.25, 0.25]


def test_a_layer_without_an_error_has_no_marks(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.trained_layers(2, "svd", stored.trial(2, "svd", 0.9), "fc1")
    key = "layers rank 2 svd.0"
    stored.study.set_user_attr(key, stored.study.user_attrs[key].replace("0.05, 0.04", "null, null"))
    results = read_results(storage, "digits")
    with pytest.raises(NothingToDraw, match="no errors of layers are stored yet"):
        layer_errors(results)
    assert tables(results)[0].rows[0].texts == ["fc1", "1,000", "1.320", "5.120"]


def test_layers_of_a_former_winner_are_not_shown(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.trained_layers(2, "svd", stored.trial(2, "svd", 0.9), "fc1")
    stored.trial(2, "svd", 0.95)
    assert layer_rows(read_results(storage, "digits")) == []


def test_trained_codes_stand_beside_low_rank_adapters_at_the_bytes_of_the_trial(beside):
    points = {trace.hovertext[0].split(",")[0]: trace.x for trace in accuracy_by_size(beside).data if trace.hovertext}
    assert list(points["codes"]) == [12_345]
    assert list(points["lora"]) == [beside[0].cells[0].winner.user_attrs["bytes"]]
