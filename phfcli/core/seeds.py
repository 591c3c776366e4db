"""Derives a seed for every random choice from its purpose, so that no random state has to be saved."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the run seed and the names of what it is for.

    Neighbouring inputs give unrelated seeds: sample 1 of seed 0 is not sample 0 of seed 1.
    """
    digest = hashlib.sha256("\x00".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
