import socket

import pytest

from pipeline.dashboard import serve as module
from pipeline.dashboard.serve import listening
from pipeline.errors import UsageError


def resolve(monkeypatch, *addresses):
    families = {False: socket.AF_INET, True: socket.AF_INET6}
    found = [(families[":" in address], socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [("127.0.0.1", socket.AF_INET, "127.0.0.1"), ("127.9.9.9", socket.AF_INET, "127.9.9.9"),
     ("::1", socket.AF_INET6, "::1")],
)  # fmt: skip
def test_loopback_needs_no_asking(host, family, address):
    assert listening(host, 80, expose=False) == (family, (address, 80))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "10.0.0.7", "fe80::1", "8.8.8.8"])
def test_fault_26_an_address_that_others_reach_is_refused_unless_asked_for_in_so_many_words(host):
    with pytest.raises(UsageError, match=r"everyone on the network.*--expose.*ssh -L 8080:localhost:8080"):
        listening(host, 8080, expose=False)
    assert listening(host, 8080, expose=True)[1] == (host, 8080)


@pytest.mark.parametrize("addresses", [("10.0.0.7",), ("127.0.0.1", "10.0.0.7"), ("::1", "fe80::1")])
def test_fault_26_a_name_is_loopback_only_where_all_its_addresses_are(monkeypatch, addresses):
    resolve(monkeypatch, *addresses)
    with pytest.raises(UsageError, match="everyone on the network"):
        listening("laptop", 80, expose=False)


def test_a_name_is_listened_on_at_the_address_that_was_looked_at(monkeypatch):
    resolve(monkeypatch, "127.0.1.1")
    assert listening("laptop", 80, expose=False) == (socket.AF_INET, ("127.0.1.1", 80))


def test_a_name_of_no_address_is_usage():
    with pytest.raises(UsageError, match="--host no such host is not an address"):
        listening("no such host", 80, expose=False)


def test_exposing_loopback_is_told_to_be_in_vain():
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0"):
        listening("127.0.0.1", 80, expose=True)


@pytest.mark.parametrize(
    ("options", "words", "unsaid"),
    [
        (
            {"expose": False, "allow_edit": False},
            ("read-only", "http://127.0.0.1:8080/dashboard", "Ctrl-C"),
            "everyone",
        ),
        ({"expose": False, "allow_edit": True}, ("edit notes and delete",), "read-only"),
        ({"expose": True, "allow_edit": False}, ("everyone on the network can read all", "read-only"), "change all"),
        ({"expose": True, "allow_edit": True}, ("everyone on the network can read and change all",), "read-only"),
    ],
)
def test_it_says_where_and_who_may_do_what(options, words, unsaid):
    said = "\n".join(module.announcement("sqlite:///studies.db", "127.0.0.1", ("127.0.0.1", 8080), **options))
    assert "sqlite:///studies.db" in said
    assert all(word in said for word in words)
    assert unsaid not in said


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [("::1", "::1", "http://[::1]:80/dashboard"), ("laptop", "127.0.1.1", "http://laptop:80/dashboard"),
     ("0.0.0.0", "0.0.0.0", f"http://{socket.gethostname()}:80/dashboard"),
     ("::", "::", f"http://{socket.gethostname()}:80/dashboard")],
)  # fmt: skip
def test_the_address_that_it_says_can_be_opened(host, address, url):
    said = "\n".join(module.announcement("sqlite://", host, (address, 80), expose=False, allow_edit=False))
    assert f": {url}\n" in said
