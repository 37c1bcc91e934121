import copy
import random
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from stopping import CheckedBy
from tiny_studies import make_objective, make_spec, make_task
from torch import Tensor

from pipeline.objective import passes as cohorts
from pipeline.objective.passes import MOST, Pass, measure_pass, pack, probe_rows
from pipeline.space import Values
from pipeline.train.lane import Epoch, Lane
from pipeline.train.optimizers.adam import Adam


def lane(rank: int = 2, batch_size: int = 16, epochs: int = 0, **values: object) -> Lane:
    parameters = {"fc1.lora_A": torch.zeros(rank, 16), "fc1.lora_B": torch.zeros(12, rank)}
    curve = [Epoch(1.0, 1.0, 0.5)] * epochs
    return replace(Lane(parameters, 4.0, Adam(), 0.01, batch_size, 0, curve=curve), **values)


def ranks(cohort: list[Lane]) -> list[int]:
    return [len(lane.parameters["fc1.lora_A"]) for lane in cohort]


def mixed(count: int = 37) -> list[Lane]:
    draw = random.Random(0)
    return [lane(draw.choice([1, 2, 4, 8]), draw.choice([16, 32]), draw.choice([0, 1])) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
@pytest.mark.parametrize("size", [Pass(64), Pass(256), Pass(0, lanes=5), Pass(10_000, lanes=1)], ids=str)
def test_every_lane_is_in_one_cohort_of_lanes_with_its_key_that_fits_into_a_pass(size, workers):
    lanes = mixed()
    packed = pack(lanes, size, workers)
    assert sorted(map(id, chain(*packed))) == sorted(map(id, lanes))
    for cohort in packed:
        assert len({lane.cohort_key for lane in cohort}) == 1
        assert 1 <= len(cohort) <= size.most(cohort[0].batch_size)
    assert len(packed) >= min(workers, len(lanes))
    assert len(packed) % workers == 0 or len(packed) == len(lanes), "no worker is left idle in the last round"
    for key in {lane.cohort_key for lane in lanes}:
        filled = [len(cohort) for cohort in packed if cohort[0].cohort_key == key]
        assert max(filled) - min(filled) <= 1, "cohorts of one key differ by one lane at most"


def test_there_are_no_more_cohorts_than_passes_and_workers_need():
    assert [len(cohort) for cohort in pack([lane() for _ in range(10)], Pass(0, lanes=4))] == [4, 3, 3]
    assert [len(cohort) for cohort in pack([lane() for _ in range(8)], Pass(0, lanes=8), workers=2)] == [4, 4]
    assert [len(cohort) for cohort in pack([lane() for _ in range(3)], Pass(0, lanes=8), workers=5)] == [1, 1, 1]
    assert pack([], Pass(64), workers=4) == []


def test_what_keeps_workers_busy_comes_from_the_fullest_pace():
    lanes = [lane() for _ in range(9)] + [lane(batch_size=32) for _ in range(2)]
    packed = pack(lanes, Pass(0, lanes=16), workers=4)
    assert sorted((cohort[0].batch_size, len(cohort)) for cohort in packed) == [(16, 3), (16, 3), (16, 3), (32, 2)]


def test_like_ranks_stand_side_by_side_and_the_cohort_with_most_to_do_comes_first():
    lanes = [lane(rank) for rank in (8, 1, 2, 8, 1, 2, 8, 1)]
    packed = pack(lanes, Pass(0, lanes=3))
    assert ranks(packed[0]) == [8, 8, 8]
    assert sorted(chain(*map(ranks, packed))) == [1, 1, 1, 2, 2, 8, 8, 8]
    assert all(ranks(cohort) == sorted(ranks(cohort)) for cohort in packed)
    work = [sum(ranks(cohort)) for cohort in packed]
    assert work == sorted(work, reverse=True)
    assert all(min(ranks(one)) >= max(ranks(other)) for one, other in pairwise(packed))


def test_lanes_of_other_seeds_or_epochs_never_meet():
    packed = pack([lane(), lane(seed=1), lane(epochs=1), lane(batch_size=17)], Pass(0, lanes=16))
    assert [len(cohort) for cohort in packed] == [1, 1, 1, 1]


def test_the_same_lanes_are_packed_the_same_way_twice():
    lanes = mixed()
    first, second = pack(lanes, Pass(128), 3), pack(list(lanes), Pass(128), 3)
    assert [list(map(id, cohort)) for cohort in first] == [list(map(id, cohort)) for cohort in second]


def test_a_pass_holds_its_images_or_the_lanes_that_a_user_gives_or_one():
    assert Pass(256).most(64) == 4
    assert Pass(256).most(100) == 2
    assert Pass(256).most(1000) == 1
    assert Pass(10**9).most(1) == MOST
    assert Pass(256, lanes=100).most(64) == 100
    assert Pass(256, lanes=1).most(64) == 1


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_a_measured_pass_is_usable_and_measuring_it_changes_nothing(two_threads, monkeypatch):
    monkeypatch.setattr(cohorts, "MOST", 8)
    objective = make_objective()
    state, before = torch.get_rng_state(), random.getstate()
    model = {name: tensor.clone() for name, tensor in objective.combination.compressed.model.state_dict().items()}
    images = make_task().train.images.clone()
    values = Values(2, "svd", 4.0, "adam", 1e-2, 16)
    start = copy.deepcopy(objective.lane(values))
    size = measure_pass(objective)
    assert size.images in [32 * lanes for lanes in (1, 2, 4, 8)], "of the middle batch size"
    assert size.lanes is None
    assert 0 < size.seconds < 1
    assert size.most(32) == size.images // 32
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == before
    assert torch.get_num_threads() == 2
    assert all(
        torch.equal(tensor, model[name]) for name, tensor in objective.combination.compressed.model.state_dict().items()
    )
    assert torch.equal(make_task().train.images, images)
    assert_at_start(objective.lane(values), start.parameters)


def assert_at_start(lane: Lane, start: dict[str, Tensor]) -> None:
    assert lane.moments is None
    assert not lane.curve
    assert all(torch.equal(tensor, start[name]) for name, tensor in lane.parameters.items())


@pytest.mark.parametrize(
    ("rates", "lanes"),
    [
        ({1: 100, 2: 300, 4: 360, 8: 380, 16: 390}, 8),
        ({1: 100, 2: 40, 4: 900}, 1),
        ({1: 100, 2: 200, 4: 400, 8: 800, 16: 1600}, 16),
    ],
    ids=["enough", "worse", "the most"],
)
def test_the_fewest_lanes_that_come_near_the_best_rate_are_taken_and_what_is_slow_ends_it(rates, lanes, monkeypatch):
    monkeypatch.setattr(cohorts, "MOST", 16)
    monkeypatch.setattr(cohorts, "LONG", float("inf"))
    # Images that all lanes of all cohorts take, over the rate that is to be measured.
    monkeypatch.setattr(
        cohorts,
        "_seconds",
        lambda own, rows, device: len(own) * len(rows) * len(own[0].lanes) / rates[len(own[0].lanes)],
    )
    size = measure_pass(make_objective())
    assert size == Pass(32 * lanes, seconds=pytest.approx(1 / rates[lanes]), alone=pytest.approx(1 / rates[1]))


def test_a_model_that_takes_one_lane_a_pass_is_measured_with_one(monkeypatch):
    objective = make_objective()
    objective.bases.common.program = replace(objective.bases.common.program, stacks=False)
    size = measure_pass(objective)
    assert size.images == 32
    assert size.lanes == 1
    assert size.most(1) == 1


def test_a_probe_repeats_a_few_images_with_their_labels():
    objective = make_objective(make_spec())
    rows = probe_rows(objective, 100)
    assert len(rows) == 100
    images, labels = next(iter(make_task().train.batches(32, torch.arange(32))))
    ((inputs, own),) = rows.batches(100)
    expected = objective.bases.common.program.inputs(images)
    places = torch.arange(100) % 32
    assert torch.equal(own, labels[places])
    assert all(torch.equal(tensor, other[places]) for tensor, other in zip(inputs, expected, strict=True))


def test_a_measurement_can_be_stopped_and_ends_where_one_try_takes_long(monkeypatch):
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), CheckedBy(stop):
        measure_pass(make_objective())
    tried = []
    monkeypatch.setattr(cohorts, "_seconds", lambda own, *_: tried.append(len(own[0].lanes)) or 1e6)
    assert measure_pass(make_objective()).images == 32
    assert tried == [1]


def test_a_measurement_that_runs_out_of_memory_keeps_what_it_has(monkeypatch):
    def seconds(own, *_):
        if len(own[0].lanes) == 4:
            raise torch.OutOfMemoryError
        return 0.1

    monkeypatch.setattr(cohorts, "_seconds", seconds)
    assert measure_pass(make_objective()).images == 64
