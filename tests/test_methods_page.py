"""``docs/methods.md`` follows the code: whoever adds a method or an option writes it there."""

import re
from pathlib import Path

import pytest

from pipeline.compress.targets import GROUPS
from pipeline.config.registry import ADAPTERS, ALLOCATIONS, COMPRESSIONS, INITS, LOSSES

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
SECTIONS = {"Compressions": COMPRESSIONS, "Adapters": ADAPTERS, "Inits": INITS, "Losses": LOSSES}
METHODS = [(section, method) for section, registry in SECTIONS.items() for method in registry]


def section(title):
    (text,) = re.findall(rf"^## {title}.*?$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return text


def first_cells(title):
    return set(re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| ([^|]*)\|", section(title), re.MULTILINE))))


@pytest.mark.parametrize(("title", "registry"), SECTIONS.items(), ids=SECTIONS)
def test_every_method_has_a_row_and_every_row_a_method(title, registry):
    assert first_cells(title) == {method.name for method in registry}


@pytest.mark.parametrize(("title", "method"), METHODS, ids=[f"{title} {method.name}" for title, method in METHODS])
def test_every_option_of_a_method_is_named_in_its_section(title, method):
    text = section(title)
    assert [option for option in method.model_fields if f"`{option}`" not in text] == []


def test_groups_and_ways_of_spreading_are_those_of_the_code():
    assert set(GROUPS) <= first_cells("Targets")
    assert {allocation.name for allocation in ALLOCATIONS} == first_cells("Allocation") - {"by"}
