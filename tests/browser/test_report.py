"""The report in a real Chromium: what is drawn, in both colour schemes, on a phone, and on paper."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from optuna.trial import TrialState
from playwright.sync_api import Page
from stored_studies import Stored, finish_study

from pipeline.report.page import write_report
from pipeline.report.theme import DARK_SCHEME, LIGHT_SCHEME
from pipeline.results.reading import read_results
from pipeline.store.database import open_storage

PHONE = {"width": 390, "height": 844}

EMPTY = """() => [...document.querySelectorAll('.picture')].filter((picture) => {
  const marks = picture.querySelectorAll(
    '.scatterlayer path, .barlayer path, .heatmaplayer image, .heatmaplayer path');
  const inked = [...picture.querySelectorAll('canvas')].some((canvas) => {
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    if (!copy.width || !copy.height) return false;
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height).data.some((value) => value > 0);
  });
  return !inked && ![...marks].some((mark) => mark.getBoundingClientRect().width > 0);
}).map((picture) => picture.getAttribute('aria-label'))"""
"""The pictures without any mark."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Pages of a finished study, of several, of one that goes on, and of one with HTML for names."""
    folder = tmp_path_factory.mktemp("reports")
    storage = open_storage(f"sqlite:///{folder / 'studies.db'}")
    with chdir(folder):
        for name, lift in (("int1-lora", 0.0), ("sparse-of-tiles-with-a-long-name-lora", 0.003)):
            finish_study(Stored(storage, combination=name, ranks=(1, 2, 4, 8, 16, 32), watched=("fc1", "fc2")), lift)
        finish_study(Stored(storage, name="other", ranks=(2,), inits=("qera",), metric="agreement"))
        begun = Stored(storage, name="begun")
        begun.references("val", 0.98, 0.4)
        for accuracy in (0.9, 0.91):
            begun.trial(2, "svd", accuracy)
        begun.trial(2, "paper", 0.1, TrialState.FAIL, reason="loss is not finite: " + "x" * 500)
        finish_study(Stored(storage, name="hostile", combination="<b onclick=alert(1)>", inits=("<img src=x>", "svd")))
        names = {"one": ["digits"], "several": ["digits", "other"], "begun": ["begun"], "hostile": ["hostile"]}
        yield {
            name: folder / write_report(read_results(storage, *studies), Path(name)).page
            for name, studies in names.items()
        }
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def opened(new_page: Callable[..., Page], reports: dict[str, Path]) -> Callable[..., Page]:
    """Opens a report where nothing outside of its file can be reached, and waits until all is drawn."""

    def make(name: str = "one", **look: object) -> Page:
        page = new_page(**look)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(reports[name].as_uri())
        page.wait_for_function(
            "() => document.querySelectorAll('.picture').length ==="
            " document.querySelectorAll('.js-plotly-plot .main-svg:first-of-type').length"
        )
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [reports[name].as_uri()]
        return page

    return make


def background(page: Page, selector: str) -> str:
    return str(page.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor"))


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"


@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "several", "begun", "hostile"])
def test_every_picture_draws_without_an_error_and_nothing_is_wider_than_the_page(name, scheme, size, opened):
    page = opened(name, color_scheme=scheme, **size)
    assert page.locator(".js-plotly-plot").count() >= 5
    assert page.evaluate(EMPTY) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


@pytest.mark.parametrize(("scheme", "colours"), [("light", LIGHT_SCHEME), ("dark", DARK_SCHEME)])
def test_page_and_pictures_are_in_the_readers_colours(scheme, colours, opened):
    page = opened(color_scheme=scheme)
    assert background(page, "body") == rgb(colours["ground"])
    grounds = page.eval_on_selector_all(
        ".main-svg, .js-plotly-plot, .picture, figure", "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert all(ground.endswith(", 0)") for ground in grounds), "no picture stands in a white box"
    fills = page.eval_on_selector_all(".xtick text", "all => all.map(one => getComputedStyle(one).fill)")
    assert set(fills) == {rgb(colours["ink"])}


def test_pictures_follow_when_the_scheme_changes_while_the_page_is_open(opened):
    page = opened(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "ink => [...document.querySelectorAll('.xtick text')].every(one => getComputedStyle(one).fill === ink)",
        arg=rgb(DARK_SCHEME["ink"]),
    )
    assert page.evaluate(EMPTY) == []


def test_the_page_prints_in_light_colours_with_all_that_is_folded(opened, tmp_path):
    page = opened(color_scheme="dark")
    page.evaluate("""() => addEventListener('beforeprint', () => {
      window.printed = {
        ink: [...document.querySelectorAll('.xtick text')].map(one => getComputedStyle(one).fill),
        folded: document.querySelectorAll('details:not([open])').length,
      };
    })""")
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") >= 5
    printed = page.evaluate("window.printed")
    assert set(printed["ink"]) == {rgb(LIGHT_SCHEME["ink"])}
    assert printed["folded"] == 0
    page.wait_for_function("() => document.querySelectorAll('details[open]').length === 0")
    assert set(page.eval_on_selector_all(".xtick text", "all => all.map(one => getComputedStyle(one).fill)")) == {
        rgb(DARK_SCHEME["ink"])
    }, "the page is as it was when it is printed"
    assert page.evaluate(EMPTY) == []


def test_a_phone_shows_checkpoints_as_cards_and_moves_wide_tables_within_their_box(opened):
    page = opened("several", **PHONE)
    card = page.locator("table.cards tbody tr").nth(2)
    box = card.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    assert "times smaller" in str(
        card.locator("td").last.evaluate("cell => getComputedStyle(cell, '::before').content + cell.dataset.of")
    )
    page.get_by_text("All ", exact=False).filter(has=page.locator("xpath=self::summary")).first.click()
    wide = page.locator("details[open] .wide").first
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('details[open] .wide').scrollLeft > 0")


def test_what_a_finger_taps_is_high_enough(opened):
    page = opened(**PHONE)
    heights = page.eval_on_selector_all("nav a, summary", "all => all.map(one => one.getBoundingClientRect().height)")
    assert min(heights) >= 40


def test_no_text_of_a_picture_is_cut_off_at_its_edges(opened):
    for look in ({"width": 1280, "height": 800}, PHONE):
        page = opened(**look)
        cut = page.evaluate("""() => [...document.querySelectorAll('.picture')].flatMap((picture) => {
          const frame = picture.getBoundingClientRect();
          return [...picture.querySelectorAll('.xtick text, .ytick text, .gtitle, .xtitle, .ytitle, .legendtext')]
            .filter((text) => {
              const box = text.getBoundingClientRect();
              return box.width > 0 && (box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
            }).map((text) => `${picture.getAttribute('aria-label').slice(0, 20)}: ${text.textContent}`);
        })""")
        assert cut == []


def test_the_contents_lead_to_their_section(opened):
    page = opened()
    page.get_by_role("link", name="Recovery by rank").click()
    assert page.locator("#recovery").evaluate("one => Math.abs(one.getBoundingClientRect().top)") < 100
