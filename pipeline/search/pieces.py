"""Attributes of a stored study that are too long for one: text in numbered pieces, none over 2 kB."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

PIECE = 1800
"""Characters of a piece as JSON writes it, where a line break counts two and a letter of few alphabets six."""


def in_pieces(key: str, text: str) -> dict[str, Any]:
    """The attributes that hold a text: ``key`` says how many pieces there are, ``key.0`` is the first."""
    pieces = list(_cut(text))
    return {key: len(pieces)} | {f"{key}.{number}": piece for number, piece in enumerate(pieces)}


def _cut(text: str) -> Iterator[str]:
    start, length = 0, 0
    for place, character in enumerate(text):
        length += len(json.dumps(character)) - len('""')
        if length > PIECE:
            yield text[start:place]
            start, length = place, len(json.dumps(character)) - len('""')
    if start < len(text):
        yield text[start:]


def joined(attributes: Mapping[str, Any], key: str) -> str | None:
    """The text that was put ``in_pieces``; none where an older version wrote the study."""
    if key not in attributes:
        return None
    return "".join(attributes[f"{key}.{number}"] for number in range(attributes[key]))
