"""Sums up what was drawn and read: of each context its score, and where its divergence lies."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phfcli.core.analysis.paired_difference import PairedDifference, Scores, paired_difference
from phfcli.core.analysis.probe.experiment import REFERENCE
from phfcli.core.analysis.probe.token_kinds import KINDS
from phfcli.core.analysis.probe.token_readings import ContextTokens, TokenReadings
from phfcli.core.evaluation.average import average
from phfcli.core.losses.token_parts import ENTROPY_EDGES, POSITION_PARTS, entropy_part, sums_by_part

FIRST_TOKENS = 10  # of each rollout
FORKS = 0.05  # of all tokens: the most uncertain ones

_RESAMPLES = 2000


@dataclass(frozen=True)
class ContextFinding:
    """What the teacher does under one context, on the student's own rollouts. Divergences are nats a token.

    gain: its score minus the plain one, paired by problem; None where no rollout has the context.
    by_kind: of each kind of token its mean divergence and its share of the tokens.
    """

    name: str
    rollouts: int
    score: float | None
    stderr: float | None
    gain: PairedDifference | None
    divergence: float
    right: float | None
    wrong: float | None
    by_position: list[float]
    by_entropy: list[float]
    by_kind: dict[str, tuple[float, float]]
    first_share: float
    fork_share: float
    clip_share: float


@dataclass(frozen=True)
class Information:
    """How much of the reference's divergence another problem's reference does not explain; with a 95% interval.

    At each token the part counts by which the teacher with the reference differs from the one with another problem's,
    at most by which it differs from the student. 1 is all information, 0 all style.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class EntropyFinding:
    """The student's own uncertainty: nats a token, on all rollouts and by what became of them."""

    mean: float
    right: float | None
    wrong: float | None
    fork_above: float  # nats, above which the most uncertain 5% lie
    tokens_by_level: list[float]  # shares between ENTROPY_EDGES


def context_finding(
    name: str, readings: TokenReadings, right: Tensor, plain: Scores, privileged: Scores
) -> ContextFinding:
    """right: [rollouts], of the student's own."""
    own = readings.contexts[name]
    there = own.there
    values, entropy = own.divergence[there], readings.entropy[there]
    ok = right[readings.rollout[there]]
    mean = average(list(privileged.values())) if privileged else None
    return ContextFinding(
        name=name,
        rollouts=len(set(readings.rollout[there].tolist())),
        score=None if mean is None else mean.average,
        stderr=None if mean is None else mean.stderr,
        gain=paired_difference(privileged, plain) if privileged else None,
        divergence=_mean(values) or 0.0,
        right=_mean(values[ok]),
        wrong=_mean(values[~ok]),
        by_position=_by_part(values, readings.part[there], POSITION_PARTS),
        by_entropy=_by_part(values, entropy_part(entropy), len(ENTROPY_EDGES) + 1),
        by_kind=_by_kind(values, readings.kind[there]),
        first_share=_share(values, readings.offset[there] < FIRST_TOKENS),
        fork_share=_share(values, _forks(entropy)),
        clip_share=_clip_share(own),
    )


def information(readings: TokenReadings, seed: int = 0) -> Information:
    """From sums over each rollout, which are drawn anew for the interval."""
    signal = readings.contexts[REFERENCE].divergence
    kept = torch.minimum(signal, readings.beside_other)
    count = int(readings.rollout.max()) + 1
    sums = np.array([sums_by_part(of.double(), readings.rollout, count)[0].tolist() for of in (kept, signal)])
    drawn = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
    above, below = sums[:, drawn].sum(-1)
    low, high = np.percentile(above / np.maximum(below, 1e-30), [2.5, 97.5])
    return Information(float(sums[0].sum() / max(sums[1].sum(), 1e-30)), float(low), float(high))


def entropy_finding(readings: TokenReadings, right: Tensor) -> EntropyFinding:
    """Of all tokens of the student's rollouts."""
    entropy, ok = readings.entropy, right[readings.rollout]
    counts = torch.bincount(entropy_part(entropy), minlength=len(ENTROPY_EDGES) + 1)
    return EntropyFinding(
        mean=_mean(entropy) or 0.0,
        right=_mean(entropy[ok]),
        wrong=_mean(entropy[~ok]),
        fork_above=entropy[_forks(entropy)].min().item(),
        tokens_by_level=(counts / len(entropy)).tolist(),
    )


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _by_part(values: Tensor, part: Tensor, parts: int) -> list[float]:
    sums, counts = sums_by_part(values, part, parts)
    means: list[float] = (sums / counts.clamp(min=1)).tolist()
    return means


def _by_kind(values: Tensor, kind: Tensor) -> dict[str, tuple[float, float]]:
    found = {}
    for place, name in enumerate(KINDS):
        own = values[kind == place]
        if len(own):
            found[name] = (own.mean().item(), len(own) / len(values))
    return found


def _share(values: Tensor, chosen: Tensor) -> float:
    total = values.sum().item()
    return values[chosen].sum().item() / total if total else 0.0


def _forks(entropy: Tensor) -> Tensor:
    """Which tokens are among the most uncertain, [N] bool; at least one."""
    most = entropy.topk(max(1, round(FORKS * len(entropy)))).indices if len(entropy) else entropy.long()
    return torch.zeros_like(entropy, dtype=torch.bool).index_fill(0, most, True)


def _clip_share(own: ContextTokens) -> float:
    return (own.raw - own.clipped) / own.raw if own.raw else 0.0
