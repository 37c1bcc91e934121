"""The README and the pages beside it agree with the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import app
from pipeline.config.registry import REGISTRIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")})

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


@pytest.mark.parametrize("kind", ["compressions", "adapters", "inits"])
def test_it_names_every_registered_method(kind):
    (row,) = re.findall(rf"^\| {kind} \| (.*) \|$", README, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == [method.name for method in REGISTRIES[kind]]


def test_contributing_has_an_example_for_every_kind_of_method():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    modules = [next(iter(registry)).__module__ for registry in REGISTRIES.values()]
    folders = {module.rpartition(".")[0].replace(".", "/") for module in modules}
    assert {folder for folder in folders if f"]({folder}/" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    paths = [link.partition("#")[0] for link in links if "://" not in link]
    assert [path for path in paths if not (page.parent / path).exists()] == []
