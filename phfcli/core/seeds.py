"""Derives the seed of every random choice from its purpose: a resumed run needs no saved random state."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the run's seed and the names of its purpose.

    Neighbouring inputs give unrelated seeds: sample 1 of seed 0 is not sample 0 of seed 1.
    """
    digest = hashlib.sha256("\x00".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
