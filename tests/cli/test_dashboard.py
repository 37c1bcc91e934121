import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command import invoke, start, write_study


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_dashboard_shows_the_stored_studies_on_loopback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study()
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    port = free_port()
    server = start("dashboard", "--port", str(port))
    try:
        for _ in range(150):
            try:
                status, page = fetch(port, "/dashboard")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, server.communicate()
                time.sleep(0.2)
        assert status == 200
        assert "<html" in page.lower()
        _, answer = fetch(port, "/api/studies")
        names = {study["study_name"] for study in json.loads(answer)["study_summaries"]}
        assert names == {"tiny/int1-lora", "tiny/sparse-lora"}
        busy = invoke("dashboard", "--port", str(port))
        assert busy.exit_code == 2
        assert "--port" in busy.stderr
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
    assert server.returncode in (0, 130)
    assert f"http://127.0.0.1:{port}/dashboard" in said
    assert "Traceback" not in said
    assert Path("storage/studies.db").exists()


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_usage(port):
    assert invoke("dashboard", "--port", port).exit_code == 2
