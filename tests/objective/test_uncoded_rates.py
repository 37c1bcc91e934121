"""Codes that are chosen for a coded size which nothing codes."""

import pytest
from tiny_studies import make_spec, make_task

from pipeline.objective.outline import Outline


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ({"compression": {"method": "intN", "rate": 0.1}}, True),
        ({"compression": {"method": "codebook", "rate": 0.1}}, True),
        ({"compression": {"method": "intN", "rate": 0.1}, "storage": {"coding": "rans"}}, False),
        ({"compression": {"method": "intN"}}, False),
    ],
    ids=["intN", "codebook", "coded", "without a rate"],
)
def test_a_rate_without_coding_is_noted(options, noted):
    spec = make_spec(combination=options)
    notes = Outline(make_task(), spec.combination[0], spec.search).compressed.notes
    assert any('coding = "rans"' in note for note in notes) == noted
