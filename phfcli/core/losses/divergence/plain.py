"""The divergence of two next-token distributions, from their logits: the plain form (PHF paper, eq. 3, per token)."""

from torch import Tensor

from phfcli.core.losses.divergence.support import LOWEST_LOGIT, restrict
from phfcli.core.losses.divergence.vocabulary_terms import ClipMode, DivergenceSpec, Kind, Support, vocabulary_terms
from phfcli.core.losses.shared import working


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: Kind = "jsd",
    beta: float = 0.5,
    temperature: float = 1.0,
    clip: float | None = None,
    clip_mode: ClipMode = "element",
    top_k: int | None = None,
    support: Support = "teacher",
    tail: bool = False,
    teacher_temperature: float | None = None,
) -> Tensor:
    """The divergence of each token, in nats; the gradient flows to the student's logits only.

    Args:
        student_logits, teacher_logits: [N, V] (or any leading shape). A logit of -inf is an entry of probability zero;
            a KL divergence that it makes infinite comes out near 1e30 times the probability without support.
        kind: "jsd" is beta KL(T || M) + (1 - beta) KL(S || M) with M = beta T + (1 - beta) S; "forward_kl" is
            KL(T || S), "reverse_kl" KL(S || T).
        beta: the teacher's weight in jsd, in (0, 1).
        temperature: divides both logits; the gradient is not rescaled.
        clip: the largest value kept; what lies above it is held there and gives no gradient.
        clip_mode: "element" clips each vocabulary entry before the sum over the vocabulary, "token" clips the sum.
            Entries of a KL divergence can be negative and are not clipped from below: their clipped sum can be too.
        top_k: restrict both distributions to `top_k` entries, renormalised there.
        support: whose likeliest entries those are; "union" is the teacher's and the student's, each counted once.
        tail: nothing is renormalised; all other entries together are one more.
        teacher_temperature: divides the teacher's logits; None is `temperature`.

    Returns:
        [N] in float32, or float64 for float64 logits.

    Raises:
        ValueError: an unknown name, a setting out of range, or logits of different shapes.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"student and teacher logits must have one shape; got {shapes}")
    spec = DivergenceSpec(kind, beta, temperature, clip, clip_mode, top_k, support, tail, teacher_temperature)
    student_logits = working(student_logits).clamp(min=LOWEST_LOGIT)
    teacher_logits = working(teacher_logits.detach()).clamp(min=LOWEST_LOGIT)
    restricted = restrict(student_logits, teacher_logits, spec)
    value = vocabulary_terms(restricted.student, restricted.teacher, spec).value
    if clip is None:
        return value.sum(-1)
    return value.clamp(max=clip).sum(-1) if clip_mode == "element" else value.sum(-1).clamp(max=clip)
