from pipeline.cli.plan_lines import plan_lines


def plan(**changes):
    """A plan with long numbers in it."""
    small = {
        "rank": 8, "trainable": 12, "bytes": 44_992, "ratio": 20.9, "layer_ratio": 20.9, "macs_ratio": 0.99,
        "clipped": {}, "spread": None, "larger": [], "dense": [], "tensors": {},
    }  # fmt: skip
    large = {**small, "rank": 1024, "trainable": 1_234_567_890, "bytes": 98_765_432_100, "clipped": {"head": 10}}
    combination = {
        "combination": "int1-lora", "layers": ["fc1"], "cells": 4, "trials": 12_345_678, "epochs": 99,
        "most_epochs": 200, "notes": [], "seconds": 7500.0,
        "seed_seconds": 3000.0, "cache": {"said": "word " * 40, "bytes": 0}, "lanes": {"64": 32}, "disk_bytes": 10**9,
        "allocation": None, "sized_by_values": False, "moved": ["pissa"],
        "ranks": [small, large], "scores": None, **changes,
    }  # fmt: skip
    return {
        "study": "digits", "seeds": 3, "trained_baseline": True,
        "parts": {"train": 54_000, "val": 6000, "test": 10_000},
        "data": ["training images from train, test images from val"], "model": [],
        "dense_bytes": 940_584, "trials": 12_345_678, "seconds": 7500.0, "disk_bytes": 10**9, "memory_bytes": 10**9,
        "combinations": [combination],
    }  # fmt: skip


def lines(**changes):
    return [line.plain for line in plan_lines(plan(**changes))]


def test_epochs_that_pruning_saves_and_notes_are_said():
    assert any(line.endswith("in 4 cells, about 99 of 200 epochs after pruning") for line in lines())
    assert any(line.endswith("in 4 cells, 200 epochs") for line in lines(epochs=200))
    assert "  each cell has 2 different trials" in lines(notes=["each cell has 2 different trials"])


def test_cells_whose_base_is_sized_by_its_values_are_said():
    assert not any("pissa" in line for line in lines())
    assert any("cells of pissa compress a base of their own" in line for line in lines(sized_by_values=True))


def test_columns_hold_their_width_for_long_numbers():
    said = lines()
    start = next(place for place, line in enumerate(said) if line.split()[:1] == ["rank"])
    table = said[start : start + 3]
    assert len({len(line) for line in table}) == 1
    assert table[2].split()[:3] == ["1,024", "1,234,567,890", "98,765,432,100"]


def test_everything_fits_into_80_columns():
    assert max(map(len, lines())) <= 80


def test_time_says_what_other_seeds_take_of_it():
    assert any("2 h 5 min, 50 min of it for the winners' 2 other seeds" in line for line in lines())


def test_layers_that_take_less_than_a_rank_are_named():
    assert "  rank 1024: head takes 10" in lines()


def test_budgets_are_not_called_ranks():
    allocation = {"by": "gain", "unit": "bytes", "spectra": "weight"}
    said = lines(allocation=allocation)
    assert not any(line.split()[:1] == ["rank"] for line in said)
    assert any(line.split()[:2] == ["budget", "trained"] for line in said)
    assert "  budget 1.024 kB: head takes 10" in said
