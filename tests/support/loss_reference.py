"""The equations of docs/math.md once more, as slow as they are written: float64, one number at a time."""

import math

import torch
from torch import Tensor


def norm(vector: Tensor) -> Tensor:
    return vector.square().sum().sqrt()


def unit(delta: Tensor, eps: float) -> Tensor:
    return delta / (norm(delta) + eps) if bool(delta.any()) else torch.zeros_like(delta)  # eq. 5


def directions(states: Tensor, valid: Tensor, eps: float) -> list[Tensor]:
    """Of one layer and sample: states [m, d], valid [m] -> one unit vector for each transition."""
    return [
        unit(states[i + 1] - states[i], eps)  # eq. 4
        for i in range(len(valid) - 1)
        if valid[i] and valid[i + 1]
    ]


def frobenius_gap(left: tuple[list[Tensor], list[Tensor]], right: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """|A_S B_S^T - A_T B_T^T|_F^2 over lists of rows."""
    (a_S, b_S), (a_T, b_T) = left, right
    count = len(a_S)
    return sum(((a_S[i] @ b_S[j] - a_T[i] @ b_T[j]) ** 2 for i in range(count) for j in range(count)), a_S[0].sum() * 0)


def flow(student: Tensor, teacher: Tensor, valid: Tensor, eps: float = 1e-8) -> tuple[Tensor, Tensor, Tensor, int]:
    """direction [L], geometry [L], adjacent [L-1], number of samples."""
    layers = len(student)
    direction, geometry, adjacent = [], [], []
    for b in range(len(valid)):
        d_S = [directions(student[layer, b], valid[b], eps) for layer in range(layers)]
        d_T = [directions(teacher[layer, b], valid[b], eps) for layer in range(layers)]
        steps = len(d_S[0])  # m - 1
        if steps == 0:
            continue
        direction.append([sum(1 - s @ t for s, t in zip(d_S[x], d_T[x], strict=True)) / steps for x in range(layers)])
        geometry.append([frobenius_gap((d_S[x], d_S[x]), (d_T[x], d_T[x])) / steps**2 for x in range(layers)])
        adjacent.append(
            [frobenius_gap((d_S[x], d_S[x + 1]), (d_T[x], d_T[x + 1])) / steps**2 for x in range(layers - 1)]
        )
    samples = len(direction)
    zero = student.new_zeros(())

    def mean(rows: list[list[Tensor]], length: int) -> Tensor:
        columns = [sum((row[x] for row in rows), zero) / max(1, samples) for x in range(length)]
        return torch.stack(columns) if columns else student.new_zeros(0)

    return mean(direction, layers), mean(geometry, layers), mean(adjacent, layers - 1), samples


def pointwise(
    student: Tensor, teacher: Tensor, valid: Tensor, normalized: bool, by_sample: bool = True
) -> tuple[Tensor, int]:
    per_sample = []
    for b in range(len(valid)):
        kept = [i for i in range(valid.shape[1]) if valid[b, i]]
        if not kept:
            continue
        errors = []
        for s, t in zip(student[:, b], teacher[:, b], strict=True):
            error = torch.stack([(s[i] - t[i]).square().mean() for i in kept]).mean()
            power = torch.stack([t[i].square().mean() for i in kept]).mean()
            errors.append(error / power if normalized else error)
        per_sample += [torch.stack(errors).mean()] * (1 if by_sample else len(kept))
    return (torch.stack(per_sample).mean() if per_sample else student.sum() * 0), len(per_sample)


def softmax(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def x_log_ratio(x: float, y: float) -> float:
    """x ln(x / y) with 0 ln 0 = 0."""
    return 0.0 if x == 0 else x * (math.log(x) - math.log(y))


def entry(s: float, t: float, kind: str, beta: float) -> float:
    if kind == "forward_kl":
        return x_log_ratio(t, s)
    if kind == "reverse_kl":
        return x_log_ratio(s, t)
    mixture = beta * t + (1 - beta) * s
    return beta * x_log_ratio(t, mixture) + (1 - beta) * x_log_ratio(s, mixture)


def _on(entries: list[int], p: list[float], tail: bool) -> list[float]:
    """The probabilities of some entries, renormalised, or with all others as one more."""
    kept = [p[v] for v in entries]
    return [*kept, sum(p) - sum(kept)] if tail else [x / sum(kept) for x in kept]


def divergence(
    student: list[float],
    teacher: list[float],
    kind: str = "jsd",
    beta: float = 0.5,
    temperature: float = 1.0,
    clip: float | None = None,
    clip_mode: str = "element",
    top_k: int | None = None,
    support: str = "teacher",
    tail: bool = False,
    teacher_temperature: float | None = None,
) -> float:
    """Of one token, from its logits."""
    S, T = softmax(student, temperature), softmax(teacher, teacher_temperature or temperature)
    if top_k is not None:
        readers = {"teacher": [teacher], "student": [student], "union": [teacher, student]}[support]
        best = sorted({v for z in readers for v in sorted(range(len(z)), key=lambda v: -z[v])[:top_k]})
        S, T = (_on(best, p, tail) for p in (S, T))
    values = [entry(s, t, kind, beta) for s, t in zip(S, T, strict=True)]
    if clip is None:
        return sum(values)
    return sum(min(v, clip) for v in values) if clip_mode == "element" else min(sum(values), clip)
