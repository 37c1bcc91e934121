"""A throw-away PostgreSQL server."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SECRET = "hunter2"
Server = tuple[str, Callable[[], None]]
"""Its URL, with a password, and a function that restarts it."""


def server_programs() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="NOT TESTED: PostgreSQL; pip install 'restora[postgresql]'")
    programs = server_programs()
    if programs is None:
        pytest.skip("NOT TESTED: PostgreSQL; no initdb and pg_ctl on PATH or below /usr/lib/postgresql: install one")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to the server's user
        yield from _serve(programs, Path(name))


def _serve(programs: Path, folder: Path) -> Iterator[Server]:
    user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = folder / "password"
    password.write_text(SECRET)
    password.chmod(0o644)

    def call(program: str, *options: str) -> None:
        subprocess.run([*user, str(programs / program), "-D", str(folder / "data"), *options], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL, timeout=60)  # fmt: skip

    call("initdb", "-U", "restora", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories=''"
    started = ("-w", "-l", str(folder / "log"), "-o", settings)
    call("pg_ctl", "start", *started)
    yield (
        f"postgresql+psycopg://restora:{SECRET}@127.0.0.1:{port}/postgres",
        lambda: call("pg_ctl", "restart", "-m", "fast", *started),
    )
    call("pg_ctl", "stop", "-m", "immediate")


@pytest.fixture
def postgresql(_server: Server) -> str:
    """The URL of the server, its password in it."""
    return _server[0]


@pytest.fixture
def restart_postgresql(_server: Server) -> Callable[[], None]:
    return _server[1]
