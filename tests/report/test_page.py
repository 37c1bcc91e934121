import csv
from html.parser import HTMLParser

import pytest
from optuna.trial import TrialState

from pipeline.report.page import render, write_report
from pipeline.search.results import read_results


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if not self.tags or self.tags[-1][0] not in ("script", "style"):
            self.text.append(data.strip())


def test_a_report_is_a_page_and_three_tables(finished, tmp_path):
    page = write_report(finished, tmp_path / "report")
    assert page == tmp_path / "report" / "index.html"
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "epochs.csv",
        "evaluation.csv",
        "index.html",
        "trials.csv",
    ]
    with (page.parent / "evaluation.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    with (page.parent / "trials.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 34


def test_the_page_needs_no_network_and_holds_plotly_once(finished):
    text = render(finished)
    page = Tags(text)
    links = [attrs[key] for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    assert links == ["evaluation.csv", "trials.csv", "epochs.csv"]
    assert text.count("plotly.js v") == 1
    assert text.count('"showSendToCloud": false') == sum(tag == "figure" for tag, _ in page.tags) == 6


def test_the_same_study_gives_the_same_page(finished):
    assert render(finished) == render(finished)


def test_the_page_says_what_was_done(finished):
    text = Tags(render(finished)).text
    assert "train 54,600, val 5,400, test 10,000" in text
    assert "98.00 (97.71 to 98.26)" in text
    assert "method int1, scale row" in text
    assert "5" * 64 in text
    assert "2.13.0" in text
    assert "loss is not finite <epoch 1>" in text
    assert any(line.startswith("32 of 32 trials of 8 cells have ended. Every winner is tested.") for line in text)


def test_names_are_escaped(hostile):
    page = Tags(render(hostile))
    assert "img" not in [tag for tag, _ in page.tags]
    assert "<img src=x>" in page.text
    assert "<script>alert(1)</script>" in page.text


def test_a_study_that_runs_has_a_page(store, storage):
    stored = store()
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    stored.running(8, "svd")
    store(combination="later")
    page = Tags(render(read_results(storage, "digits")))
    assert any("Not every winner is tested yet." in line for line in page.text)
    assert sum(tag == "figure" for tag, _ in page.tags) == 4
    assert "Spectra" not in page.text, "a picture that was not asked for is left out"
    assert "No picture: int1-lora: importances need two complete trials, there is one; later: " in " ".join(page.text)


@pytest.mark.parametrize("failed", [0, 4])
def test_a_study_without_a_complete_trial_has_a_page_without_pictures(failed, store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    for _ in range(failed):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="out of memory")
    text = render(read_results(storage, "digits"))
    assert "plotly.js v" not in text
    assert "No picture: no trial has completed yet." in text
    assert ("exhausted: as many trials failed" in text) == ("out of memory" in text) == bool(failed)
