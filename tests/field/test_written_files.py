"""The JSON of report and export lists the files that this call wrote, whatever lies beside them."""

import json
from pathlib import Path

import pytest
from command import files, invoke, write_study

STRANGERS = ("index.html.bak", "of-an-earlier-report.csv", "notes.txt", "png/of-an-earlier-report.png")


def stamps() -> dict[str, int]:
    return {name: Path(name).stat().st_mtime_ns for name in files()}


@pytest.fixture
def two_studies() -> None:
    for name in ("tiny", "other"):
        write_study(name, trials=2)
        assert invoke("run", name).exit_code == 0


def drawn(figures, folder: Path) -> list[Path]:
    """Stands for the browser, which writes one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recovery.png").write_bytes(b"png")
    return [folder / "recovery.png"]


def test_report_and_export_list_exactly_what_they_wrote(two_studies, monkeypatch):
    monkeypatch.setattr("pipeline.report.png.write_pngs", drawn)
    for studies in (["tiny"], ["other", "tiny"]):
        for png in (["--png"], ["--no-png"], ["--png"]):
            folder = Path("storage/reports", "+".join(studies))
            for stranger in STRANGERS:
                path = folder / stranger
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("of someone else")
            before = stamps()
            done = invoke("report", *studies, *png, "--json")
            assert done.exit_code == 0, done.stderr
            table = json.loads(done.stdout)
            written = {name for name, stamp in stamps().items() if before.get(name) != stamp}
            assert {table["page"], *table["tables"], *table["pictures"]} == {n for n in written if "reports" in n}
            assert bool(table["pictures"]) == (png == ["--png"])
    for again in ([], ["--force"]):
        if again:
            Path("storage/exports/tiny/int1-lora/rank-1/stranger.txt").write_text("of someone else")
        table = json.loads(invoke("export", "tiny", *again, "--json").stdout)
        for one in table:
            assert set(one["files"]) == {"card.json", "model.safetensors"}
            assert all(Path(one["folder"], name).stat().st_size == size for name, size in one["files"].items())
