"""Attributes of a stored study that are too long for one: text in numbered pieces, none over 2 kB."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

PIECE = 1800
"""Characters of a piece as JSON writes it, where a line break counts two and a letter of few alphabets six."""


def in_pieces(key: str, text: str) -> dict[str, Any]:
    """The attributes that hold a text: ``key`` says how many pieces there are, ``key.0`` is the first."""
    pieces = list(cut(text))
    return {f"{key}.{number}": piece for number, piece in enumerate(pieces)} | {key: len(pieces)}


def cut(text: str) -> Iterator[str]:
    """The pieces of a text."""
    start, length = 0, 0
    for place, character in enumerate(text):
        length += _length(character)
        if length > PIECE:
            yield text[start:place]
            start, length = place, _length(character)
    if start < len(text):
        yield text[start:]


@functools.cache
def _length(character: str) -> int:
    return len(json.dumps(character)) - len('""')


def joined(attributes: Mapping[str, Any], key: str) -> str | None:
    """The text that was put ``in_pieces``; none where an older version wrote the study."""
    if key not in attributes:
        return None
    return "".join(attributes[f"{key}.{number}"] for number in range(attributes[key]))
