import json
from pathlib import Path

import pytest
from command import invoke, write_study

from pipeline.cli.run import progress_before
from pipeline.config.study_file import load_spec
from pipeline.dashboard.note import combination_note
from pipeline.errors import SpecError
from pipeline.export.selection import export_study
from pipeline.paths import default_database
from pipeline.report.sections.study_section import task_section
from pipeline.results.reading import read_results
from pipeline.run import objectives as study_objectives
from pipeline.run.study_run import run_study

AUTO = 'compression = { method = "int1", metric = "auto", bias = "auto" }'


@pytest.fixture
def path() -> Path:
    """A study of one combination whose compression has options that are "auto"."""
    path = write_study()
    first, _, rest = path.read_text().partition('[[combination]]\nname = "sparse-lora"')
    text = (first + rest[rest.index("[search]") :]).replace('compression = "int1"', AUTO)
    path.write_text(
        text.replace("ranks = [1, 2]", "ranks = [1]").replace('inits = ["paper", "svd"]', 'inits = ["svd"]')
    )
    return path


def pinned_compression(storage):
    return read_results(storage, "tiny")[0].facts["pinned"]["combination"]["compression"]


def refuse_to_score(combination):
    assert not combination.spec.autos
    assert not combination.search.init_candidates
    return combination


@pytest.mark.usefixtures("path")
def test_plan_says_how_many_candidates_there_are_and_prints_their_scores():
    said = " ".join(invoke("plan", "tiny", "--device", "cpu").stdout.split())
    assert "4 candidates for metric and bias will be scored on 21 training images" in said
    (plain,) = json.loads(invoke("plan", "tiny", "--device", "cpu", "--json").stdout)["combinations"]
    assert plain["auto"] == {"options": ["metric", "bias"], "candidates": 4, "images": 21, "scores": None}
    (scored,) = json.loads(invoke("plan", "tiny", "--device", "cpu", "--score", "--json").stdout)["combinations"]
    scores = [one["divergence"] for one in scored["auto"]["scores"]]
    assert (len(scores), scores) == (4, sorted(scores))
    lines = invoke("plan", "tiny", "--device", "cpu", "--score").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["divergence", "options"])
    best = scored["auto"]["scores"][0]
    shown = f'{best["divergence"]:.4g}  metric = "{best["options"]["metric"]}", bias = "{best["options"]["bias"]}"'
    assert lines[start + 1].strip() == shown


def test_a_study_is_searched_resumed_and_exported_with_the_options_it_chose_first(path, open_database, monkeypatch):
    run_study(load_spec(path))
    storage = open_database("storage/studies")
    chosen, (result,) = pinned_compression(storage), read_results(storage, "tiny")
    assert "auto" not in chosen.values()
    captions = [getattr(block, "caption", "") for block in task_section([result]).blocks]
    assert any("options that are auto" in caption for caption in captions)
    auto = {"metric": chosen["metric"], "bias": chosen["bias"]}
    said = f'auto: metric = "{chosen["metric"]}", bias = "{chosen["bias"]}"'
    monkeypatch.setattr(study_objectives, "decided", refuse_to_score)
    path.write_text(path.read_text().replace("trials = 2", "trials = 3"))
    run_study(load_spec(path))
    assert pinned_compression(storage) == chosen
    assert said in invoke("status", "tiny").stdout
    planned = " ".join(invoke("plan", "tiny", "--device", "cpu").stdout.split())
    assert f"{said.replace('auto: ', 'auto ')}: chosen when the study began" in planned
    assert said.removeprefix("auto: ") in combination_note(read_results(storage, "tiny")[0]).replace("\\", "")
    ((_, folder),) = export_study(load_spec(path))
    method = json.loads((folder / "card.json").read_text())["method"]
    assert method["compression"].items() >= chosen.items()
    assert method["auto"] == auto
    path.write_text(path.read_text().replace(AUTO, 'compression = { method = "intN", clip = "auto" }'))
    with pytest.raises(SpecError, match=r"compression\.method: stored int1, now intN"):
        run_study(load_spec(path))


def test_an_init_that_is_auto_is_chosen_once_and_shown_everywhere(path, open_database, monkeypatch):
    path.write_text(path.read_text().replace(AUTO, 'compression = "int1"').replace('["svd"]', '"auto"'))
    said = " ".join(invoke("plan", "tiny", "--device", "cpu").stdout.split())
    assert "10 inits at each rank will be scored on 21 training images" in said
    run_study(load_spec(path))
    (result,) = read_results(open_database("storage/studies"), "tiny")
    (init,) = result.facts["pinned"]["search"]["inits"]
    assert [cell.cell.init for cell in result.cells] == [init["method"]]
    captions = [getattr(block, "caption", "") for block in task_section([result]).blocks]
    assert any("init that is auto" in caption for caption in captions)
    monkeypatch.setattr(study_objectives, "decided", refuse_to_score)
    path.write_text(path.read_text().replace("trials = 2", "trials = 3"))
    run_study(load_spec(path))
    assert progress_before(load_spec(path), default_database())[result.name].cells[0].init == init["method"]
    ((_, folder),) = export_study(load_spec(path))
    assert json.loads((folder / "card.json").read_text())["method"]["values"]["init"] == init["method"]
