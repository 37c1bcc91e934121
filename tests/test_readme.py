"""What the README shows is so."""

import re
import subprocess
import sys
from pathlib import Path

from pipeline.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

ADDED = """
import half, torch
from pipeline.config.registry import COMPRESSIONS
method = COMPRESSIONS["half"]()
small = method.compress(torch.randn(5, 7), None)
tensors = small.to_tensors()
assert torch.equal(method.from_tensors(tensors, small.shape).dense(), small.dense())
assert sum(8 * tensor.nbytes for tensor in tensors.values()) == small.bits.total()
print(method.summary())
"""


def test_the_new_method_that_it_shows_is_one_whole_file(tmp_path):
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "half.py").write_text(shown)
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ran = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False, env=path)
    assert ran.stderr == ""
    assert ran.stdout.startswith("16 bits per weight")


def test_it_has_a_row_for_every_verb():
    rows = re.findall(r"^\| `restora (\w+)", README, re.MULTILINE)
    assert rows == [command.name or command.callback.__name__ for command in app.registered_commands]


def test_its_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
