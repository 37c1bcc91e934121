import csv
import json
import re
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from optuna.trial import TrialState
from report_pages import Tags, render
from stored_studies import Stored

from pipeline.report.page import TABLES, write_report
from pipeline.results.reading import read_results

MADE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def test_a_report_is_a_page_and_four_tables(finished, tmp_path):
    written = write_report(finished, tmp_path / "report")
    page = written.page
    assert page == tmp_path / "report" / "index.html"
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "epochs.csv",
        "evaluation.csv",
        "index.html",
        "layers.csv",
        "trials.csv",
    ]
    with (page.parent / "evaluation.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    with (page.parent / "trials.csv").open(newline="") as file:
        assert {row["study"] for row in csv.DictReader(file)} == {"digits"}
    assert written.tables == [page.parent / name for name in TABLES]
    assert "accuracy_by_rank" in written.figures


def test_the_page_asks_for_nothing_from_outside_and_holds_plotly_once(finished):
    text = render(finished)
    page = Tags(text)
    links = [attrs[key] for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    assert [link for link in links if not link.startswith("#")] == list(TABLES)
    assert text.count("plotly.js v") == 1
    policy = next(attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_every_link_of_the_contents_leads_somewhere_and_every_picture_has_one(finished):
    page = Tags(render(finished))
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"][1:] for attrs in page.all("a") if attrs["href"].startswith("#")]
    assert set(links) <= anchors
    assert {attrs["id"] for attrs in page.all("div") if attrs.get("class") == "picture-block"} <= set(links)
    assert len(links) == len(set(links))


def test_the_page_is_well_formed_and_its_headings_are_in_order(finished):
    page = Tags(render(finished))
    assert page.open == []
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]


def test_what_is_drawn_is_described_and_tables_name_their_columns_and_rows(finished):
    page = Tags(render(finished))
    pictures = [attrs for attrs in page.all("div") if attrs.get("class") == "picture"]
    assert len(pictures) == len(page.all("figure")) == len(page.all("figcaption")) > 5
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 50 for attrs in pictures)
    assert len(page.all("caption")) == len(page.all("table"))
    assert {attrs["scope"] for attrs in page.all("th")} == {"col", "row"}


def test_the_same_study_gives_the_same_page(finished):
    assert render(finished, MADE) == render(finished, MADE)


def test_names_are_escaped(hostile):
    page = Tags(render(hostile))
    assert "img" not in [tag for tag, _ in page.tags]
    assert "<img src=x>" in page.said
    assert "<script>alert(1)</script>" in page.said


def test_figures_cannot_end_the_script_that_holds_them(hostile):
    text = render(hostile)
    data = re.findall(r'<script type="application/json" ?[^>]*>(.*?)</script>', text, flags=re.DOTALL)
    assert len(data) == text.count('class="picture"') + 1
    assert all("<" not in one and json.loads(one) for one in data)


@pytest.mark.parametrize("failed", [0, 4])
def test_a_study_without_a_complete_trial_has_a_page_without_pictures(failed, store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    for _ in range(failed):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="out of memory")
    text = render(read_results(storage, "digits"))
    assert "plotly.js v" not in text
    assert "No picture: no trial has completed yet." in text
    ended_short = "Cells that ended short of their budget, because as many trials failed:" in text
    assert ended_short == ("out of memory" in text) == bool(failed)


def test_what_a_hundred_epochs_add_to_the_page_is_little(storage):
    stored = Stored(storage, ranks=(2,), inits=("svd",), budget=50)
    for place in range(50):
        stored.trial(2, "svd", 0.9 + place / 1000)
    many = len(render(read_results(storage, "digits")))
    assert many < 5_100_000, "trials that are no winner's are points of few pictures"
