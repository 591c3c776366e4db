"""Teachers that are other models, and the bridge to their states."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import Projector
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.other_teachers import Bridge, ExternalTeacher, load_bridge, load_external, save_bridge
from phfcli.core.types import Problem

CPU = torch.device("cpu")
PROBLEM = Problem("p", "Start with 45, add 12.")
TEXTS = ("<think>\n45+12=57\n</think>\n\n\\boxed{57}<|im_end|>", "45", "é12")


@pytest.fixture(scope="module")
def other(stranger: Path, embedded: LanguageModel) -> ExternalTeacher:
    """A teacher with tokens of its own."""
    config = TrainConfig.model_validate({"teacher": {"kind": "external", "model": str(stranger)}})
    return load_external(config, embedded.description)


@pytest.fixture
def alike(random_model: Callable[..., LanguageModel]) -> ExternalTeacher:
    """A teacher of the student's tokenizer, deeper and wider, with a larger vocabulary than it needs."""
    model = random_model(hidden_size=40, num_hidden_layers=6, vocab_size=300, head_dim=10)
    return ExternalTeacher(model, None)


def samples(teacher: ExternalTeacher, student: LanguageModel) -> list[Sample]:
    encode = student.description.tokenizer.encode
    prompt = encode("Start with 45", add_special_tokens=False)
    return [teacher.prepare(Sample(prompt, prompt, encode(t, add_special_tokens=False)), PROBLEM) for t in TEXTS]


def batch_of(some: list[Sample], positions: int = 128) -> Batch:
    return collate(some, positions, 0, CPU)


def test_it_is_frozen(other: ExternalTeacher) -> None:
    assert not any(p.requires_grad for p in other.model.network.parameters())
    assert not other.state_dict()


def test_the_same_tokens_are_read_at_layers_as_deep(alike: ExternalTeacher, student: LanguageModel) -> None:
    batch = batch_of(samples(alike, student))
    assert batch.in_teacher_tokens is None
    assert batch.teacher is not None
    got = alike.run_pass(student, batch, (1, 3))
    want = run_pass(alike.model, batch.teacher, batch, (2, 6))
    torch.testing.assert_close(got.states, want.states)
    torch.testing.assert_close(got.hidden, want.hidden)
    assert not got.states.requires_grad


def test_other_tokens_are_read_where_ends_meet(other: ExternalTeacher, embedded: LanguageModel) -> None:
    some = samples(other, embedded)
    batch = batch_of(some)
    states = other.run_pass(embedded, batch, (2, 4)).states  # of its blocks 3 and 6
    for row, sample in enumerate(some):
        assert sample.in_teacher_tokens is not None
        assert sample.aligned_positions is not None
        ids = torch.tensor([[*sample.in_teacher_tokens.student_prompt, *sample.in_teacher_tokens.completion]])
        every = other.model.causal(input_ids=ids, output_hidden_states=True).hidden_states[3][0]
        aligned_positions = [
            len(sample.in_teacher_tokens.student_prompt) + place
            for place in sample.in_teacher_tokens.aligned_positions or ()
        ]
        count = int(batch.valid[row].sum())
        assert batch.positions[row, :count].tolist() == list(sample.aligned_positions)
        torch.testing.assert_close(states[0, row, :count], every[aligned_positions], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", [2, 5])
def test_both_readers_take_the_same_pairs(other: ExternalTeacher, embedded: LanguageModel, positions: int) -> None:
    some = samples(other, embedded)
    batch = batch_of(some, positions)
    assert batch.in_teacher_tokens is not None
    torch.testing.assert_close(batch.valid, batch.in_teacher_tokens.valid)
    for row, sample in enumerate(some):
        assert sample.in_teacher_tokens is not None
        pairs = dict(zip(sample.aligned_positions or (), sample.in_teacher_tokens.aligned_positions or (), strict=True))
        for slot in range(int(batch.valid[row].sum())):
            assert pairs[int(batch.positions[row, slot])] == int(batch.in_teacher_tokens.positions[row, slot])


def test_a_text_without_any_pair_gives_no_state(other: ExternalTeacher, embedded: LanguageModel) -> None:
    half = embedded.description.tokenizer.encode("é", add_special_tokens=False)[:1]
    none = other.prepare(Sample([5], [5], half), PROBLEM)
    batch = batch_of([none, *samples(other, embedded)])
    assert not batch.valid[0].any()
    assert batch.counts["states"] == 3
    assert batch.counts["samples"] == 4
    assert batch_of([none]).counts["states"] == 0


@pytest.mark.parametrize("support", ["sampled", "top_k", "full"])
def test_opd_compares_the_entries_both_heads_have_and_only_the_student_learns(
    alike: ExternalTeacher, student: LanguageModel, support: str
) -> None:
    config = TrainConfig.model_validate(
        {
            "objective": "opd",
            "rollout": {"temperature": 1.2, "top_p": 1.0, "top_k": 0},
            "opd": {"support": support},
            "teacher": {"kind": "external", "model": "other"},
        }
    )
    objective = build_objective(config)
    assert not objective.needs.privileged
    alike.model.network.requires_grad_()
    batch = batch_of(samples(alike, student))
    own = run_pass(student, batch.student, batch, ())
    terms = objective.loss(own, alike.run_pass(student, batch, ()), batch)
    terms.total(batch.counts).backward()
    assert all(p.grad is None for p in alike.model.network.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.trainable().values())

    logits = own.head.logits(own.hidden) / 1.2
    read = alike.run_pass(student, batch, ())
    other = read.head.first(len(own.head)).logits(read.hidden) / 1.2
    if support == "top_k":
        chosen = other.topk(16, -1).indices
        logits, other = logits.gather(1, chosen), other.gather(1, chosen)
    gap = logits.log_softmax(-1) - other.log_softmax(-1)
    if support == "sampled":
        want = gap.gather(1, batch.token_ids[:, None]).mean()
    else:
        want = (logits.softmax(-1) * gap).sum(-1).mean()
    torch.testing.assert_close(terms.total(batch.counts), want)
    student.network.zero_grad()


def test_oprd_with_a_teacher_of_the_same_width(student: LanguageModel, alike: ExternalTeacher) -> None:
    """By hand: what the heads read at the last two tokens of each completion."""
    config = TrainConfig.model_validate({"objective": "oprd", "oprd": {"positions": "last-2"}})
    objective = build_objective(config)
    batch = collate(samples(alike, student), objective.needs.positions, 0, CPU, objective.needs.where)
    own = run_pass(student, batch.student, batch, (3,))
    assert own.final is not None
    twin = replace(own, final=own.final.detach() + torch.randn_like(own.final))
    loss = objective.loss(own, twin, batch).total(batch.counts)
    means = []
    for row, sample in enumerate(batch.samples):
        count = min(2, len(sample.completion))
        assert batch.positions[row, :count].tolist() == list(range(len(sample.completion)))[-2:]
        means.append((own.final - twin.final)[row, :count].square().mean())
    torch.testing.assert_close(loss, torch.stack(means).mean())


def bridge() -> Bridge:
    own, other = Projector(torch.randn(1, 2, 6), torch.randn(1, 6)), Projector(torch.randn(1, 2, 3), torch.randn(1, 3))
    return Bridge((4,), own, other, {"student": {"name": "a"}, "teacher": {"name": "b"}})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    made, path = bridge(), tmp_path / "b.safetensors"
    save_bridge(path, made)
    read = load_bridge(path)
    assert (read.layers, read.about, read.path) == ((4,), made.about, path)
    states = torch.randn(1, 5, 7, 6), torch.randn(1, 5, 7, 3)
    for got, want in zip(read.project(*states), made.project(*states), strict=True):
        assert got.shape == (1, 5, 7, 2)
        assert torch.equal(got, want)
    assert [p.name for p in tmp_path.iterdir()] == ["b.safetensors"]


def test_what_is_no_bridge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_bridge(path)
    save_file({"layers": torch.tensor([1])}, path)
    with pytest.raises(UserError, match="not a bridge; make one with `phf bridge fit`"):
        load_bridge(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_bridge(path)


def test_the_bridge_says_which_layers_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_bridge(path, bridge())
    tree = {"objective": "oprd", "oprd": {"bridge": str(path)}, "teacher": {"kind": "external", "model": "b"}}
    needs = build_objective(TrainConfig.model_validate(tree)).needs
    assert (needs.layers, needs.outputs, needs.privileged) == ((4,), False, False)
    for change in ({"teacher": {}}, {"oprd": {"bridge": str(path), "layers": "last"}}):
        with pytest.raises(UserError, match=r"oprd.bridge: it brings its own oprd.layers"):
            build_objective(TrainConfig.model_validate(tree | change))
