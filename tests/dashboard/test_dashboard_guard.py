import pytest
from asking import ask

from pipeline.dashboard.access import INERT, guarded

OWN = ["127.0.0.1:8080", "127.0.0.1", "127.0.0.2:1", "localhost:9001", "LocalHost", "[::1]:8080", "[::1]"]
FOREIGN = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8080",
    "laptop",
    "10.0.0.7",
]
MALFORMED = [
    None, "", ":8080", "localhost:http", "localhost:", "localhost:123456", "a@localhost", "localhost/", "::1",
    "[::1", "localhost,localhost", "localhost evil.example", "127.0.0.1:8080\n", "[localhost]", "0x7f000001", "ünsere",
]  # fmt: skip
WRITING = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "WHATEVER"]


class Application:
    """Answers 200 with the headers that it is made with, and keeps the methods that reach it."""

    def __init__(self, *headers):
        self.headers, self.reached = list(headers), []

    def __call__(self, environ, start_response):
        self.reached.append(environ["REQUEST_METHOD"])
        start_response("200 OK", self.headers)
        return [b"studies"]


@pytest.fixture
def application():
    return Application(("Content-Type", "text/html"))


def refused(application, *words, names=(), exposed=False, allow_edit=False, **request):
    """The reason of a 403, with which nothing reached the application."""
    answer = ask(guarded(application, names, exposed=exposed, allow_edit=allow_edit), *words, **request)
    assert (answer.status, application.reached) == (403, [])
    return answer.text


@pytest.mark.parametrize("host", OWN)
def test_loopback_is_answered_at_any_port_for_tunnels_have_another(application, host):
    answer = ask(guarded(application), "/dashboard", host=host, origin=f"http://{host}")
    assert (answer.status, answer.text) == (200, "studies")


@pytest.mark.parametrize("host", [*FOREIGN, *MALFORMED])
def test_fault_26_a_foreign_or_malformed_host_is_refused_with_its_name_and_what_to_do(application, host):
    said = refused(application, host=host)
    assert repr(host) in said
    assert "restora dashboard" in said


@pytest.mark.parametrize("host", ["10.0.0.7:8080", "[fe80::1]:8080", "laptop:8080", "LAPTOP", "localhost"])
def test_exposed_it_is_answered_under_every_address_and_its_own_names(application, host):
    assert ask(guarded(application, {"laptop"}, exposed=True), host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example:8080", *MALFORMED])
def test_fault_26_exposed_it_is_still_refused_under_a_foreign_name(application, host):
    refused(application, host=host, names={"laptop"}, exposed=True)


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://evil.example", "http://localhost:3000", "http://127.0.0.1:8080/", "http://127.0.0.1",
        "http://127.0.0.1:8080.evil.example", "ftp://127.0.0.1:8080", "http://127.0.0.1:8080, null",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_fault_26_a_foreign_origin_is_refused_whatever_it_asks(application, method, origin):
    said = refused(application, "/api/studies/1/note", method, origin=origin, allow_edit=True)
    assert repr(origin) in said


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8080", "https://127.0.0.1:8080", "HTTP://127.0.0.1:8080"])
def test_its_own_pages_and_programs_without_an_origin_are_answered(application, origin):
    assert ask(guarded(application), origin=origin).status == 200


@pytest.mark.parametrize("method", WRITING)
def test_fault_26_every_method_that_may_write_is_refused_unless_edits_are_allowed(application, method):
    said = refused(application, "/dashboard", method)
    assert method in said
    assert "--allow-edit" in said
    assert ask(guarded(application, allow_edit=True), "/dashboard", method).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_reads_is_answered(application, method):
    assert ask(guarded(application), method=method).status == 200


def test_the_page_is_told_why_in_its_own_manner(application):
    answer = ask(guarded(application), "/api/studies/1", "DELETE")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert "--allow-edit" in answer.json["reason"]
    assert ask(guarded(application), "/", "DELETE").headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_other_site_may_read_or_frame_an_answer(method):
    application = Application(("Content-Type", "image/png"), ("access-control-allow-origin", "*"))
    headers = ask(guarded(application), "/artifacts/1/2/3-4", method).headers
    assert "access-control-allow-origin" not in map(str.lower, headers)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_only_the_page_with_a_policy_of_its_own_may_run_scripts():
    own = Application(("content-security-policy", "script-src 'self'"))
    assert ask(guarded(own), "/dashboard").headers["content-security-policy"] == "script-src 'self'"
    for path in ("/artifacts/1/2-3", "//artifacts/1/2-3", "/\xffartifacts/1/2-3", "/anything"):
        assert ask(guarded(Application()), path).headers["Content-Security-Policy"] == INERT
