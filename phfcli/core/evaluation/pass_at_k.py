"""pass@k and majority@n of an evaluation, as fractions in 0..1."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

from phfcli.core.errors import UserError


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """The chance that one of k samples is correct, unbiased, averaged over problems (Chen et al. 2021, eq. 1).

    correct: how many of the n samples of each problem are correct.
    """
    if not 1 <= k <= n:
        raise UserError(f"pass@{k} needs at least {max(k, 1)} samples a problem, there are {n}")
    if not correct or not all(0 <= c <= n for c in correct):
        raise UserError(f"pass@{k} needs problems with 0..{n} correct samples each")
    all_draws = math.comb(n, k)
    return math.fsum(1 - math.comb(n - c, k) / all_draws for c in correct) / len(correct)


def pass_at_ks(correct: Sequence[int], n: int) -> dict[int, float]:
    """pass@k for k = 1, 2, 4, 8, ... and n."""
    ks = [2**i for i in range(n.bit_length()) if 2**i < n] + [n]
    return {k: pass_at_k(correct, n, k) for k in ks}


def majority(votes: Sequence[Sequence[int | None]], correct: Sequence[Collection[int]]) -> float:
    """The share of problems whose most frequent answer is correct.

    votes: for each problem the class of each sample's answer; None does not vote. correct: for each problem the classes
    that are correct. A tie counts by the share of the tied classes that are correct; no votes count as wrong.
    """
    if not votes:
        raise UserError("majority needs at least one problem")
    return math.fsum(_plurality(v, c) for v, c in zip(votes, correct, strict=True)) / len(votes)


def _plurality(votes: Sequence[int | None], correct: Collection[int]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    tied = [vote for vote, count in counts.items() if count == most]
    return sum(vote in correct for vote in tied) / len(tied)
