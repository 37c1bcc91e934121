"""``docs/methods.md`` follows the code: its tables are made from the registries, and its prose names every method."""

import re

import pytest

from method_tables import PAGE, page_with_tables, table
from pipeline.compress.targets import GROUPS
from pipeline.config.registry import REGISTRIES

TEXT = PAGE.read_text()
SECTIONS = {"Compressions": "compressions", "Adapters": "adapters", "Inits": "inits"}
"""Sections that say in a table of their own what each method is good for."""


def first_cells(title):
    """Names in the first column of a section's tables that are written by hand."""
    (section,) = re.findall(rf"^## {title}.*?$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    section = re.sub(r"<!-- table.*?<!-- end -->", "", section, flags=re.DOTALL)
    return set(re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| ([^|]*)\|", section, re.MULTILINE))))


def test_the_tables_of_the_page_are_those_of_the_code():
    assert page_with_tables(TEXT) == TEXT, "write them anew: python scripts/method_tables.py"


def test_every_kind_of_method_has_a_table():
    kinds = re.findall(r"<!-- table: (\w+) -->", TEXT)
    assert sorted(kinds) == sorted(REGISTRIES)


@pytest.mark.parametrize(("title", "kind"), SECTIONS.items(), ids=SECTIONS)
def test_every_method_is_recommended_for_something_and_nothing_else_is(title, kind):
    assert first_cells(title) == {method.name for method in REGISTRIES[kind]}


def test_groups_of_layers_are_those_of_the_code():
    assert set(GROUPS) <= first_cells("Targets")


def test_a_table_says_what_an_option_may_be_and_what_it_is_without_being_given():
    rows = dict(re.findall(r"^\| +\| (`\w+`) \| (.*?) \|$", table("compressions"), re.MULTILINE))
    assert rows["`budget`"].startswith("number, above 0, at most 1 | not given | ")
    assert rows["`bits`"].startswith("`32`, `8`, `1` | `32` | ")
    assert rows["`symmetric`"].startswith("`false`, `true` | `true` | ")
    assert rows["`factors`"].startswith('compression | `"none"` | ')
    assert rows["`energy`"].startswith("number, above 0, at most 1 | not given | ")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_option_has_its_docstring(kind):
    empty = [line for line in table(kind).splitlines() if line.endswith("|  |")]
    assert empty == []
