"""Texts that are too long for one attribute of a stored study: they are stored as numbered chunks below 2 kB."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 1800
"""Characters of a chunk as JSON writes it: a line break takes two, a letter outside ASCII six or more."""


def in_chunks(key: str, text: str) -> dict[str, Any]:
    """The attributes that store a text: ``key`` holds the number of chunks, ``key.0`` the first chunk.

    >>> in_chunks("file", "abc")
    {'file.0': 'abc', 'file': 1}
    """
    chunks = list(split(text))
    return {f"{key}.{number}": chunk for number, chunk in enumerate(chunks)} | {key: len(chunks)}


def split(text: str) -> Iterator[str]:
    """The chunks of a text, none of them longer than ``LONGEST``."""
    start, length = 0, 0
    for index, character in enumerate(text):
        length += _length(character)
        if length > LONGEST:
            yield text[start:index]
            start, length = index, _length(character)
    if start < len(text):
        yield text[start:]


@functools.cache
def _length(character: str) -> int:
    return len(json.dumps(character)) - len('""')


def joined(attributes: Mapping[str, Any], key: str) -> str | None:
    """The text that was stored ``in_chunks``; None if the study has none, as those of versions before 0.1."""
    if key not in attributes:
        return None
    return "".join(attributes[f"{key}.{number}"] for number in range(attributes[key]))
