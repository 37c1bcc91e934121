from collections import Counter
from pathlib import Path

import torch

from bench.published import configurations
from bench.sweep import cache_cost
from bench.tasks import head_task, study, train_all
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.space import Values


def test_the_published_sweep_has_ten_trials_of_each_of_28_combinations_and_is_the_same_every_time():
    own = configurations()
    cells = Counter((each.compression, each.init, each.rank) for each in own)
    assert len(own) == 280
    assert set(cells.values()) == {10}
    assert len(cells) == 2 * 2 * 7
    assert own == configurations()
    assert {each.batch_size for each in own} == {32, 64, 128, 256, 512}
    assert all(8 <= each.alpha <= 48 and 1e-4 <= each.lr <= 1e-2 for each in own)


def test_every_trial_of_a_benchmark_is_trained_for_all_its_epochs(tmp_path: Path):
    torch.set_num_threads(1)
    spec = study(["int1"], ranks=[2, 4], batch_size=[32, 64])
    objective = Objective(head_task(tmp_path, 1200, 100), spec.combination[0], spec.search)
    values = [Values(rank, "svd", 16.0, "adam", 1e-3, batch) for rank in (2, 4) for batch in (32, 64)]
    lanes = train_all(objective, values, 2, Pass(0, lanes=2))
    assert [len(lane.curve) for lane in lanes] == [2] * 4
    assert {lane.parameters["fc.lora_A"].shape[0] for lane in lanes} == {2, 4}


def test_a_cache_changes_no_loss_of_the_benchmark():
    assert cache_cost(images=32)["largest_relative_difference_of_losses"] < 1e-6
