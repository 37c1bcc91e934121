"""optuna-dashboard, as `restora dashboard` serves it, seen by a browser."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from playwright.sync_api import Page, expect
from serving import Served, serving
from stored_studies import Stored, finish_study

from pipeline.dashboard.feed import Feed
from pipeline.dashboard.serve import Server
from pipeline.paths import PICTURES
from pipeline.store.database import open_storage

CURVES = '<svg xmlns="http://www.w3.org/2000/svg" width="320" height="200"><circle cx="160" cy="100" r="90"/></svg>'
SCRIPT = "<title>inert</title><script>document.title = 'it ran'</script>"
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two stored studies, of ids 1 and 2; the first has trials, and what a run shows of itself."""
    folder = tmp_path_factory.mktemp("seen")
    storage = open_storage(f"sqlite:///{folder}/storage/studies.db")
    stored = Stored(storage)
    finish_study(stored)
    Stored(storage, combination="sparse-lora")
    Feed(storage, "digits").reached("ended")
    stored.running(8, "svd")
    (folder / PICTURES).mkdir()
    for name, text in {"curves.svg": CURVES, "page.html": SCRIPT}.items():
        (folder / name).write_text(text)
        upload_artifact(
            artifact_store=FileSystemArtifactStore(folder / PICTURES), file_path=str(folder / name),
            study_or_trial=stored.study.trials[-1], storage=storage,
        )  # fmt: skip
    storage.remove_session()
    storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(folder) as served:
        yield served


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page()


def trial_page(page: Page, served: Served) -> None:
    """Open the trial that has artifacts."""
    page.goto(f"{served.url}/dashboard/studies/1/trials?numbers=17")
    expect(page.get_by_role("heading", name="Artifacts")).to_be_visible()


def test_it_lists_the_studies_and_opens_one_with_its_history(page, served):
    page.goto(served.url)
    expect(page.get_by_text("digits/sparse-lora")).to_be_visible()
    page.get_by_text("digits/int1-lora").click()
    expect(page).to_have_url(re.compile(r"/dashboard/studies/1"))
    expect(page.locator("#plot-history .scatterlayer .point").nth(11)).to_be_attached()
    expect(page.locator("#plot-history .ytitle")).to_have_text("validation accuracy")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_our_pictures_are_drawn_in_it(new_page, served, color_scheme):
    page = new_page(color_scheme=color_scheme)
    page.goto(f"{served.url}/dashboard/studies/1")
    by_rank = page.locator("[id='user-defined-plot:accuracy_by_rank']")
    expect(by_rank.locator(".scatterlayer .point").nth(3)).to_be_attached()
    expect(by_rank.locator(".ytitle")).to_have_text("Test accuracy (%)")


def test_the_note_is_shown_as_a_table(page, served):
    page.goto(f"{served.url}/dashboard/studies/1/note")
    expect(page.get_by_role("cell", name="compressed only")).to_be_visible()
    expect(page.locator("strong", has_text="int1-lora")).to_be_visible()


def test_a_trial_shows_its_picture(page, served):
    trial_page(page, served)
    picture = page.locator("img[src*='/artifacts/']")
    expect(picture).to_have_js_property("naturalWidth", 320)


def test_fault_26_an_artifact_opened_by_itself_runs_nothing(page, served, page_errors):
    trial_page(page, served)
    link = page.locator("a[href*='/artifacts/']").last.get_attribute("href")
    answer = page.goto(f"{served.url}{link}")
    assert answer.headers["content-type"] == "text/html"
    expect(page).to_have_title("inert")
    assert "sandboxed" in page_errors.pop()


def test_fault_26_nothing_is_deleted_and_the_page_says_so(page, served, page_errors):
    page.goto(served.url)
    page.get_by_test_id("DeleteIcon").first.click()
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as deletion:
        page.get_by_role("button", name="yes").click()
    assert deletion.value.status == 403
    expect(page.get_by_text("Failed to delete study")).to_be_visible()
    page.reload()
    expect(page.get_by_text("digits/sparse-lora")).to_be_visible()
    assert "403" in page_errors.pop()


def test_fault_26_a_foreign_name_that_leads_here_is_refused(page, served, page_errors):
    port = served.url.rpartition(":")[2]
    answer = page.goto(f"http://rebound.example:{port}/api/studies")
    assert answer.status == 403
    assert "rebound.example" in answer.json()["reason"]
    assert "403" in page_errors.pop()


@pytest.fixture
def foreign() -> Iterator[str]:
    """The address of another site."""

    def answer(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<title>another site</title><link rel=icon href=data:,>"]

    server = Server(socket.AF_INET, ("127.0.0.1", 0), answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


TRY = """async ([url, picture]) => {
    const asked = (method) => fetch(url + "/api/studies/1/note", {method, body: '{"version": 9, "body": "gone"}'})
        .then((answer) => answer.status, () => "refused");
    const shown = new Promise((done) => {
        const image = new Image();
        image.onload = () => done("shown");
        image.onerror = () => done("refused");
        image.src = url + picture;
    });
    const read = fetch(url + "/api/studies").then(() => "read", () => "refused");
    return [await asked("PUT"), await asked("POST"), await asked("DELETE"), await shown, await read];
}"""


def test_with_edits_allowed_its_own_page_edits_a_note_and_another_sites_does_not(folder, foreign, page, page_errors):
    with serving(folder, "--allow-edit") as served:
        trial_page(page, served)
        picture = page.locator("img[src*='/artifacts/']").get_attribute("src").removeprefix(served.url)
        page.goto(f"{served.url}/dashboard/studies/2/note")
        expect(page.get_by_text("digits/sparse-lora (id=2)")).to_be_visible()
        page.get_by_test_id("EditIcon").click()
        page.get_by_role("textbox").first.fill("seen by a browser")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Success to save the note")).to_be_visible()
        expect(page.get_by_text("seen by a browser")).to_be_visible()
        page.goto(foreign)
        assert page.evaluate(TRY, [served.url, picture]) == ["refused"] * 5
        page.goto(f"{served.url}/dashboard/studies/1/note")
        expect(page.get_by_role("cell", name="compressed only")).to_be_visible()
        page_errors.clear()


def test_another_site_cannot_frame_it(foreign, page, served, page_errors):
    page.goto(foreign)
    with page.expect_event("console") as refusal:
        page.evaluate("url => { document.body.innerHTML = `<iframe src='${url}/dashboard'></iframe>` }", served.url)
    assert "X-Frame-Options" in refusal.value.text
    page_errors.clear()
