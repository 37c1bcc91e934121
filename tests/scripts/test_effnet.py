import json
import sys
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from tiny_data import write_images

import effnet_recovery
from bench.effnet import PLACES, Place, Variant, study, unpack
from effnet_recovery import packaged_weights, recover, table


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_place_is_a_valid_study_of_each_variant(place: Place):
    spec = study(place, Path("weights.pth"), Path("images"), "recovery")
    assert len({combination.name for combination in spec.combination}) == len(place.variants)
    for variant, combination in zip(place.variants, spec.combination, strict=True):
        assert {target.rank or 0 for target in combination.targets} == {variant.rank}
        assert tuple(target.match for target in combination.targets) == place.targets
        assert combination.adapter.low_rank == bool(variant.rank)


def test_only_the_first_images_of_each_class_are_unpacked_and_only_once(tmp_path: Path):
    archive, folder = tmp_path / "images.tar", tmp_path / "some"
    with tarfile.open(archive, "w") as tar:
        for part in ("train", "test"):
            for number in range(5):
                tar.addfile(tarfile.TarInfo(f"{part}/cat/{number:04}.jpg"), BytesIO())
    unpack(archive, folder, train=30, test=10)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    assert found == ["test/cat/0000.jpg", "train/cat/0000.jpg", "train/cat/0001.jpg", "train/cat/0002.jpg"]
    archive.unlink()
    unpack(archive, folder, train=30, test=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some"]


def test_the_table_tells_size_and_agreement_before_and_after():
    share = {"agreement": 0.5, "low": 0.4, "high": 0.6}
    sizes = {"bytes": 9_000_000, "ratio": 2.0, "layer_ratio": 20.0}
    row = {"where": "head", "method": "int1", "size": "rank 8", "trained": "lora", **sizes}
    row |= {"adapter_rank": 8, "init": "qera"}
    assert table([{**row, "before": {**share, "agreement": 0.25}, "after": share}]).splitlines()[-1] == (
        "| head | `int1` rank 8 | lora, r = 8, qera | 9,000,000 | 50.0% | 5.0% | 25.0% | 50.0% (40.0% to 60.0%) |"
    )


def sooner(variant: Variant) -> Variant:
    """The variant, rounded once instead of in many sweeps, which take ten seconds for the head alone."""
    once = {"rounding": "gptq"} if "rounding" in variant.compression else {}
    return replace(variant, compression={**variant.compression, **once})


def test_one_variant_of_every_place_is_searched_and_tested_and_its_figures_are_written(tmp_path: Path, capsys):
    write_images(tmp_path / "images/train", 2)
    write_images(tmp_path / "images/test", 1, seed=1)
    places = [replace(place.quick(), variants=(sooner(place.variants[0]),), inits=place.inits[:1]) for place in PLACES]
    recover(places, packaged_weights(), tmp_path / "images", "tiny", tmp_path / "figures.json")
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["where"] for row in rows] == [place.name for place in PLACES]
    assert all(row["bytes"] < row["dense_bytes"] and row["after"]["images"] == 3 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(PLACES)


@pytest.mark.parametrize("option", ["--data", "--weights"])
def test_a_file_in_another_place_is_named_before_anything_is_measured(option: str, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["effnet_recovery.py", option, "none"])
    with pytest.raises(SystemExit, match=rf"not found: looked for .*/none; .*{option}"):
        effnet_recovery.main()


def test_a_part_that_is_not_there_is_refused_with_those_that_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["effnet_recovery.py", "tail"])
    with pytest.raises(SystemExit):
        effnet_recovery.main()
    assert (
        "no part 'tail'; choose of head, head-codes, convolutions, convolutions-codes, channels"
        in capsys.readouterr().err
    )
