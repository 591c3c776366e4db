"""The fused divergence: the value and gradient of the plain one, with never more than a chunk of logits."""

import itertools
import math
from typing import Any

import pytest
import torch
from largest import Largest
from loss_reference import softmax
from torch import Tensor

from phfcli.core.losses import fused_divergence as chunked
from phfcli.core.losses.divergence import Contrast, DivergenceSpec, vocabulary_terms
from phfcli.losses import ClipStats, Head, divergence, fused_divergence, fused_divergence_stats

N, V, D = 7, 11, 5
KINDS = ["jsd", "forward_kl", "reverse_kl"]
CLIPS: list[dict[str, Any]] = [{}, {"clip": 0.02}, {"clip": 0.1, "clip_mode": "token"}]
TEMPERATURES = [1.0, 1.1]
TOP_KS = [None, 3]


def draw(seed: int = 0, dtype: torch.dtype = torch.float64, tokens: int = N) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """student [N, d], teacher [N, d], head [V, d], weights [N] with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(tokens, D, generator=generator, dtype=torch.float64)
    teacher = student + 0.7 * torch.randn(tokens, D, generator=generator, dtype=torch.float64)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64)
    weights = torch.rand(tokens, generator=generator, dtype=torch.float64)
    weights[1::3] = 0
    return student.to(dtype), teacher.to(dtype), head.to(dtype), weights.to(torch.promote_types(dtype, torch.float32))


def plain(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
    teacher_head = options.pop("teacher_head", head)
    return divergence(student @ head.T, (teacher @ teacher_head.T).detach(), **options) @ weights


def value_and_grads(function: Any, *inputs: Tensor, **options: Any) -> tuple[Tensor, ...]:
    student, teacher, head, weights = inputs
    leaves = [x.clone().requires_grad_() for x in (student, head)]
    loss = function(leaves[0], teacher, leaves[1], weights, **options)
    return (loss.detach(), *torch.autograd.grad(3.5 * loss, leaves))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("chunk_size", [1, 3, N, None])
def test_equals_plain(kind: str, clip: dict[str, Any], chunk_size: int | None) -> None:
    for temperature, top_k in itertools.product(TEMPERATURES, TOP_KS):
        options = {"kind": kind, "beta": 0.3, "temperature": temperature, "top_k": top_k, **clip}
        got = value_and_grads(fused_divergence, *draw(), chunk_size=chunk_size, **options)
        torch.testing.assert_close(got, value_and_grads(plain, *draw(), **options))


@pytest.mark.parametrize("support", ["teacher", "student", "union"])
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_every_support_equals_plain(support: str, tail: bool, soft_cap: float | None) -> None:
    student, teacher, head, weights = draw(4)

    def from_logits(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
        own = Head(head, scale=0.5, soft_cap=soft_cap)
        return divergence(own.logits(student), own.logits(teacher).detach(), **options) @ weights

    def from_states(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
        return fused_divergence(student, teacher, Head(head, scale=0.5, soft_cap=soft_cap), weights, **options)

    for kind, clip, top_k in itertools.product(KINDS, CLIPS, [1, 3, 6, V - 1, V]):
        options = {"kind": kind, "temperature": 1.1, "teacher_temperature": 0.8, "top_k": top_k, **clip}
        options |= {"support": support, "tail": tail}
        got = value_and_grads(from_states, student, teacher, head, weights, chunk_size=3, **options)
        torch.testing.assert_close(got, value_and_grads(from_logits, student, teacher, head, weights, **options))


def test_a_tail_keeps_the_mass_beside_the_support() -> None:
    student, teacher, head, weights = draw(4)
    common = {"kind": "forward_kl", "top_k": 3}
    whole = plain(student, teacher, head, weights, kind="forward_kl")
    tailed, cut = (fused_divergence(student, teacher, head, weights, tail=x, **common) for x in (True, False))  # type: ignore[arg-type]
    assert 0 < tailed < whole  # a coarser view of both
    assert tailed != cut


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("top_k", TOP_KS)
def test_gradcheck(kind: Any, clip: dict[str, Any], top_k: int | None) -> None:
    student, teacher, head, weights = draw(1)
    student.requires_grad_()
    head.requires_grad_()
    teacher_head = head.detach().clone()

    def loss(s: Tensor, h: Tensor) -> Tensor:
        options: dict[str, Any] = {"kind": kind, "temperature": 1.2, "top_k": top_k, "chunk_size": 3, **clip}
        return fused_divergence(s, teacher, h, weights, teacher_head=teacher_head, **options)

    assert torch.autograd.gradcheck(loss, (student, head))


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(chunked, "_SLAB_BYTES_CPU", rows * V * 4)
    got = value_and_grads(fused_divergence, *draw(), clip=0.02, chunk_size=5)
    torch.testing.assert_close(got, value_and_grads(plain, *draw(), clip=0.02))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
def test_float32(kind: str, clip: dict[str, Any]) -> None:
    got = value_and_grads(fused_divergence, *draw(2, torch.float32), kind=kind, **clip)
    exact = value_and_grads(plain, *draw(2), kind=kind, **clip)
    assert all(x.dtype == torch.float32 for x in got)
    torch.testing.assert_close([x.double() for x in got], list(exact), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_hidden_states(kind: str) -> None:
    student, teacher, head, weights = draw(3, torch.bfloat16)
    got = value_and_grads(fused_divergence, student, teacher, head, weights, kind=kind, temperature=1.1)
    want = value_and_grads(plain, student, teacher, head, weights, kind=kind, temperature=1.1)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == got[2].dtype == torch.bfloat16
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got[1:], want[1:], rtol=0.05, atol=0.02)


def test_mixed_precision_uses_the_higher_one() -> None:
    student, teacher, head, weights = draw(4, torch.float32)
    mixed = fused_divergence(student, teacher.bfloat16(), head, weights)
    torch.testing.assert_close(mixed, fused_divergence(student, teacher.bfloat16().float(), head, weights))
    low_head = fused_divergence(student, teacher, head.bfloat16(), weights)
    torch.testing.assert_close(low_head, fused_divergence(student, teacher, head.bfloat16().float(), weights))
    want = fused_divergence(student, teacher, head, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fused_divergence(student, teacher, head, weights), want)


def test_an_external_teacher_has_its_own_head_and_width() -> None:
    student, _, head, weights = draw(5)
    teacher, teacher_head = torch.randn(2, V, D + 2, dtype=torch.float64)
    teacher = teacher[:N]
    got = value_and_grads(fused_divergence, student, teacher, head, weights, teacher_head=teacher_head, chunk_size=2)
    want = value_and_grads(plain, student, teacher, head, weights, teacher_head=teacher_head)
    torch.testing.assert_close(got, want)


def test_gradient_to_the_student_only_and_none_to_a_frozen_head() -> None:
    student, teacher, head, weights = draw()
    for x in (student, teacher, weights):
        x.requires_grad_()
    fused_divergence(student, teacher, head, weights).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert head.grad is None
    assert weights.grad is None


def test_without_gradient() -> None:
    student, teacher, head, weights = draw()
    want = plain(student, teacher, head, weights)
    student.requires_grad_()
    with torch.no_grad():
        loss = fused_divergence(student, teacher, head, weights)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, want)


def test_tokens_of_weight_zero_are_never_read() -> None:
    student, teacher, head, weights = draw()
    want = value_and_grads(fused_divergence, student, teacher, head, weights)
    student[weights == 0] = torch.nan
    teacher[weights == 0] = torch.inf
    torch.testing.assert_close(value_and_grads(fused_divergence, student, teacher, head, weights), want)


@pytest.mark.parametrize("tokens", [0, 3])
def test_no_tokens_is_zero_with_a_gradient(tokens: int) -> None:
    student, teacher, head, weights = draw(tokens=tokens)
    loss, student_grad, head_grad = value_and_grads(fused_divergence, student, teacher, head, 0 * weights)
    assert float(loss) == 0
    assert student_grad.shape == (tokens, D)
    assert not student_grad.any()
    assert not head_grad.any()
    stats = fused_divergence_stats(student, teacher, head, 0 * weights)[1]
    assert [float(x.sum()) for x in stats] == [0] * 10


@pytest.mark.parametrize("mode", [None, "element", "token"])
@pytest.mark.parametrize("top_k", TOP_KS)
@pytest.mark.parametrize("chunk_size", [2, None])
def test_statistics(mode: Any, top_k: int | None, chunk_size: int | None) -> None:
    student, teacher, head, weights = draw(6)
    values = entry_values(student @ head.T / 1.1, teacher @ head.T / 1.1, top_k)
    counted = values[weights != 0]
    options: dict[str, Any] = {"top_k": top_k, "temperature": 1.1}
    entries_above = tokens_above = 0
    if mode == "element":
        options |= {"clip": 1.01 * float(counted.max(1).values.median()), "clip_mode": mode}
        above = counted > options["clip"]
        entries_above, tokens_above = int(above.sum()), int(above.any(1).sum())
    elif mode == "token":
        options |= {"clip": 1.01 * float(counted.sum(1).median()), "clip_mode": mode}
        tokens_above = int((counted.sum(1) > options["clip"]).sum())
    loss, stats = fused_divergence_stats(student, teacher, head, weights, chunk_size=chunk_size, **options)
    assert int(stats.entries) == counted.numel()
    assert int(stats.entries_clipped) == entries_above
    assert int(stats.tokens_clipped) == tokens_above
    assert mode is None or 0 < tokens_above < len(counted)
    torch.testing.assert_close(stats.raw, values.sum(1) @ weights)
    torch.testing.assert_close(stats.clipped, plain(student, teacher, head, weights, **options))
    torch.testing.assert_close(stats.clipped, loss, rtol=0, atol=0)
    assert not any(x.requires_grad for x in stats)
    assert [x.dtype for x in stats[:3]] == [torch.int64] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.02, 0.2])
@pytest.mark.parametrize("top_k", TOP_KS)
def test_turned_tokens_are_those_whose_gradient_points_away_from_the_unclipped_one(
    kind: Any, clip: float | None, top_k: int | None
) -> None:
    student, teacher, head, weights = draw(2, tokens=40)
    options: dict[str, Any] = {"kind": kind, "top_k": top_k}
    gradients = []
    for bound in (None, clip):
        logits = (student @ head.T).requires_grad_()
        divergence(logits, teacher @ head.T, clip=bound, **options).sum().backward()
        gradients.append(logits.grad)
    whole, clipped = gradients
    assert whole is not None
    assert clipped is not None
    turned = ((whole * clipped).sum(-1) < 0) & (weights != 0)
    stats = fused_divergence_stats(student, teacher, head, weights, clip=clip, **options)[1]
    assert int(stats.tokens_turned) == int(turned.sum())
    if clip is not None and top_k is None:
        above = vocabulary_terms(student @ head.T, teacher @ head.T, DivergenceSpec(kind=kind)).value > clip
        reversed_ = (whole * clipped < 0) & above & (weights != 0)[:, None]
        assert int(stats.entries_turned) == int(reversed_.sum())
        assert kind != "forward_kl" or int(reversed_.sum()) == int(stats.entries_clipped) > 0  # each of them
    assert clip is None or kind == "jsd" or int(turned.sum()) > 0


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_the_element_clip_keeps_a_kl_divergence_from_being_learnt(kind: Any) -> None:
    """400 steps on free logits, as an audit of the recipes found it."""
    torch.manual_seed(0)
    teacher = 2 * torch.randn(16, V, dtype=torch.float64)

    def trained(clip: float | None) -> tuple[float, float]:
        logits = torch.zeros_like(teacher, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        before = divergence(logits, teacher, kind).mean().item()
        for _ in range(400):
            optimizer.zero_grad()
            divergence(logits, teacher, kind, clip=clip).mean().backward()
            optimizer.step()
        return before, divergence(logits, teacher, kind).mean().item()

    before, after = trained(clip=None)
    assert after < 0.05 * before
    before, clipped = trained(clip=0.05)
    assert clipped > (before if kind == "forward_kl" else 0.8 * before)


def entry_values(student_logits: Tensor, teacher_logits: Tensor, top_k: int | None) -> Tensor:
    """The unclipped entries of jsd at beta 0.5."""
    best = teacher_logits.topk(top_k or V).indices
    S, T = student_logits.gather(1, best).softmax(-1), teacher_logits.gather(1, best).softmax(-1)
    M = (S + T) / 2
    return (T * (T / M).log() + S * (S / M).log()) / 2


@pytest.mark.parametrize("top_k", [None, 8])
def test_the_logits_are_never_held(top_k: int | None) -> None:
    tokens, vocabulary, d, chunk = 64, 1000, 4, 4
    student, teacher = torch.randn(2, tokens, d)
    head, weights = torch.randn(vocabulary, d), torch.ones(tokens)
    student.requires_grad_()
    with Largest() as fused:
        fused_divergence(student, teacher, head, weights, clip=0.05, top_k=top_k, chunk_size=chunk).backward()
    with Largest() as full:
        plain(student, teacher, head, weights, clip=0.05, top_k=top_k).backward()
    assert full.numel >= tokens * vocabulary
    assert fused.numel <= 2 * chunk * vocabulary
    readings = torch.stack([teacher, teacher, student.detach()], 1)
    with Largest() as contrasted:
        contrast = Contrast((1, 0, 2), bound=10.0)
        fused_divergence(student, readings, head, weights, contrast=contrast, chunk_size=chunk).backward()
    assert contrasted.numel <= 4 * chunk * vocabulary


def test_the_default_chunk_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 2 * 3 * V * 8)
    with Largest() as largest:
        got = value_and_grads(fused_divergence, *draw())
    assert largest.numel == 2 * 3 * V
    torch.testing.assert_close(got, value_and_grads(plain, *draw()))


def test_refused() -> None:
    student, teacher, head, weights = draw()
    bad: list[tuple[Any, ...]] = [
        (student[:2], teacher, head, weights),
        (student, teacher[:, :2], head, weights),
        (student, teacher, head[:, :2], weights),
        (student, teacher, head, weights[:2]),
        (student, teacher, head, weights[:, None]),
        (student[None], teacher, head, weights),
    ]
    for inputs in bad:
        with pytest.raises(ValueError, match="must"):
            fused_divergence(*inputs)
    with pytest.raises(ValueError, match="V shared"):
        fused_divergence(student, teacher, head, weights, teacher_head=head[:3])
    with pytest.raises(ValueError, match="chunk_size"):
        fused_divergence(student, teacher, head, weights, chunk_size=0)
    with pytest.raises(ValueError, match="so they need top_k"):
        fused_divergence(student, teacher, head, weights, tail=True)
    with pytest.raises(ValueError, match="temperature"):
        fused_divergence(student, teacher, head, weights, teacher_temperature=0.0)
    with pytest.raises(ValueError, match="clip"):
        fused_divergence(student, teacher, head, weights, clip=-1.0)
    with pytest.raises(TypeError, match="clipp"):
        fused_divergence(student, teacher, head, weights, clipp=0.05)  # type: ignore[call-arg]


def test_stats_are_a_named_tuple() -> None:
    stats = fused_divergence_stats(*draw(), clip=0.02)[1]
    assert isinstance(stats, ClipStats)
    sums = ("entries_clipped", "entries_turned", "entries", "tokens_clipped", "raw", "clipped", "tokens_turned")
    assert stats._fields == (*sums, "divergence", "kept", "entropy")


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
def test_each_tokens_divergence_and_entropy_come_with_it(kind: Any, top_k: int | None) -> None:
    student, teacher, head, weights = draw()
    weights = weights.clone()
    weights[1] = 0
    options: dict[str, Any] = {"kind": kind, "top_k": top_k, "temperature": 1.3}
    stats = fused_divergence_stats(student, teacher, head, weights, clip=0.02, **options)[1]
    counted = (weights != 0).to(student.dtype)
    each = divergence(student @ head.T, teacher @ head.T, **options) * counted
    torch.testing.assert_close(stats.divergence, each)
    kept = divergence(student @ head.T, teacher @ head.T, clip=0.02, **options) * counted
    torch.testing.assert_close(stats.kept, kept)
    entropy = torch.distributions.Categorical(logits=student @ head.T / 1.3).entropy() * counted
    torch.testing.assert_close(stats.entropy, entropy)
    assert not stats.entropy.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_stop_tokens_are_one_entry(kind: str, soft_cap: float | None) -> None:
    """Loss and gradient against distributions in which their probabilities are added up, in float64."""
    student, teacher, head, weights = draw(8)
    stops = (2, 5, 9)
    others = [v for v in range(V) if v not in stops]

    def merged(logits: Tensor, temperature: float) -> Tensor:
        p = (logits / temperature).softmax(-1)
        return torch.cat((p[:, others], p[:, list(stops)].sum(-1, keepdim=True)), -1).log() * temperature

    def slow(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
        own = Head(head, soft_cap=soft_cap)
        logits = merged(own.logits(student), 1.1), merged(own.logits(teacher).detach(), 0.8)
        return divergence(*logits, **options) @ weights

    def fused(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
        return fused_divergence(student, teacher, Head(head, soft_cap=soft_cap), weights, stops=stops, **options)

    def direct(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor, **options: Any) -> Tensor:
        own = Head(head, soft_cap=soft_cap)
        return divergence(own.logits(student), own.logits(teacher), stops=stops, **options) @ weights

    for top_k, tail, clip in ((None, False, None), (4, True, None), (4, False, 0.05), (None, False, 0.02)):
        options = {"kind": kind, "temperature": 1.1, "teacher_temperature": 0.8, "top_k": top_k, "tail": tail}
        options |= {"clip": clip}
        want = value_and_grads(slow, student, teacher, head, weights, **options)
        for function in (fused, direct):
            torch.testing.assert_close(value_and_grads(function, student, teacher, head, weights, **options), want)


def plain_target(readings: list[list[float]], options: dict[str, Any], temperature: float) -> list[float]:
    """The target's probabilities of one token, an entry at a time."""
    log_p = [[math.log(p) for p in softmax(logits, temperature)] for logits in readings]
    start, plus, minus = (log_p[place] for place in options["places"])
    floor, bound = options.get("floor"), options.get("bound")
    contrast = [a - (b if floor is None else max(b, floor)) for a, b in zip(plus, minus, strict=True)]
    if bound is not None:
        mean = sum(contrast) / len(contrast)
        contrast = [bound * math.tanh((x - mean) / bound) for x in contrast]
    return softmax([s + x / options["beta"] for s, x in zip(start, contrast, strict=True)], 1.0)


CONTRASTS: list[dict[str, Any]] = [
    {"places": (1, 0, 2), "beta": 1.0, "bound": 10.0},  # Purified OPSD
    {"places": (1, 0, 2), "beta": 0.5, "bound": 0.3},
    {"places": (0, 0, 1), "beta": 2.0, "floor": -2.0},  # RLCSD's form
]


@pytest.mark.parametrize("options", CONTRASTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_contrast_of_readings_is_the_target(options: dict[str, Any], kind: str) -> None:
    """Loss and gradient of the chunked form against the equation in float64, one entry at a time."""
    student, _, head, weights = draw(5)
    contrast = Contrast(**options)
    generator = torch.Generator().manual_seed(6)
    teacher = torch.randn(N, contrast.readings, D, generator=generator, dtype=torch.float64)
    more = {"kind": kind, "temperature": 1.1, "teacher_temperature": 0.8}

    def slow(student: Tensor, teacher: Tensor, head: Tensor, weights: Tensor) -> Tensor:
        logits = (teacher @ head.T).detach().tolist()
        targets = torch.tensor([plain_target(readings, options, 0.8) for readings in logits], dtype=torch.float64)
        return divergence(student @ head.T, targets.log() * 0.8, **more) @ weights

    want = value_and_grads(slow, student, teacher, head, weights)
    for chunk_size in (1, 3, None):
        got = value_and_grads(
            fused_divergence, student, teacher, head, weights, contrast=contrast, chunk_size=chunk_size, **more
        )
        torch.testing.assert_close(got, want)
    own = value_and_grads(
        fused_divergence, student, teacher, head, weights, contrast=contrast, teacher_head=head.clone(), **more
    )
    torch.testing.assert_close(own, want)


def test_a_contrast_of_equal_readings_is_the_start() -> None:
    student, teacher, head, weights = draw(7)
    same = torch.stack([teacher, teacher, teacher], 1)
    contrast = Contrast((1, 0, 2), bound=10.0)
    got = fused_divergence(student, same, head, weights, contrast=contrast)
    torch.testing.assert_close(got, fused_divergence(student, teacher, head, weights))


def test_a_contrast_needs_a_place_for_each_reading() -> None:
    student, teacher, head, weights = draw()
    for wrong in (teacher, torch.stack([teacher, teacher], 1)):
        with pytest.raises(ValueError, match=r"the teacher's hidden states must be \[N, 3, d\]"):
            fused_divergence(student, wrong, head, weights, contrast=Contrast((1, 0, 2)))
