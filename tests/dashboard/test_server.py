import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.dashboard import serve as module
from pipeline.dashboard.serve import Server


def refuse(environ, start_response):
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [b"read-only"]


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Starts servers, on free ports."""
    started = []

    def start(application=refuse, family=socket.AF_INET, host="127.0.0.1") -> Server:
        server = Server(family, (host, 0), application)
        started.append((server, threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})))
        started[-1][1].start()
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: Server, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        connection.request(method, "/", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_refused_upload_gets_its_answer_though_it_is_not_read(serving):
    server = serving()
    for _ in range(5):
        assert ask(server, "POST", bytes(3_000_000)) == (403, b"read-only")


def test_connections_on_which_nothing_is_asked_hold_up_nobody(serving):
    server = serving()
    idle = [socket.create_connection(server.server_address) for _ in range(20)]
    assert ask(server) == (403, b"read-only")
    for each in idle:
        each.close()


def test_connections_on_which_nothing_is_asked_are_closed_in_silence(serving, monkeypatch, capfd):
    monkeypatch.setattr(module._Handler, "timeout", 0.05)
    with socket.create_connection(serving().server_address, timeout=10) as idle:
        assert idle.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_a_browser_that_goes_away_is_no_news(serving, capfd):
    answered = threading.Event()

    def long(environ, start_response):
        start_response("200 OK", [])
        for _ in range(50):
            yield bytes(1_000_000)
        answered.set()

    server = serving(long)
    with socket.create_connection(server.server_address) as away:
        away.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        away.recv(10)
    assert ask(server)[0] == 200
    assert answered.wait(10)
    assert capfd.readouterr().err == ""


def test_it_listens_on_ipv6_too(serving):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    assert ask(serving(family=socket.AF_INET6, host="::1")) == (403, b"read-only")
