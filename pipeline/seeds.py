"""Seeds for everything that is drawn, each from what it is for."""

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """A 32-bit seed that depends on ``seed`` and the words and numbers of ``purpose`` alone, on any machine."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
