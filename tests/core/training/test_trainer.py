"""The loop serves what an objective needs, without knowing which it is: two strangers to it train here."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from phfcli.core.config import TrainConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.extensions import register
from phfcli.core.models.passes import Batch, Pass, collate
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Term
from phfcli.core.runs.folder import checkpoints_of
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.ranks import ALONE
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer

SMALL = ["batch_size=2", "micro_batch_size=3", "rollout.max_new_tokens=60", "steps=2"]


def token_logprobs(student: Pass, batch: Batch) -> torch.Tensor:
    logits = student.head.logits(student.hidden)
    return logits.log_softmax(-1).gather(1, batch.token_ids[:, None])[:, 0]


@dataclass(frozen=True)
class CrossEntropy:
    """Offline, on the references: no rollouts, no teacher."""

    needs: Needs = Needs(completions=0, teacher=False)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is None
        return LossTerms({"nll": Term(-token_logprobs(student, batch).sum(), per="tokens")})


@dataclass(frozen=True)
class Distillation:
    """One completion of each problem, whoever wrote it."""

    needs: Needs = Needs(completions=1, teacher=False)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        return LossTerms({"nll": Term(-token_logprobs(student, batch).sum(), per="tokens")})


@dataclass(frozen=True)
class PolicyGradient:
    """Rewards relative to their group's mean."""

    needs: Needs = Needs(completions=3, teacher=False, reward=True)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        rows, _ = batch.tokens
        advantages = torch.tensor([s.reward - sum(s.group) / len(s.group) for s in batch.samples])
        return LossTerms({"pg": Term(-(advantages[rows] * token_logprobs(student, batch)).sum(), per="tokens")})


def trainer(folder: Path, objective: Objective, *pairs: str) -> Trainer:
    register("objectives", "stranger", lambda _: objective)
    return build_trainer(resolve_train(set_sources([*SMALL, "objective=stranger", *pairs])), folder, fresh=True)


def test_an_offline_objective_reads_the_references(tmp_path: Path) -> None:
    loop = trainer(tmp_path, CrossEntropy(), "optim.lr=0.01", "optim.max_grad_norm=1")
    drawn = loop.rollouts.samples(1)
    for problem, sample in zip(drawn.problems, drawn.samples, strict=True):
        assert sample.teacher_prompt is None
        assert loop.model.description.tokenizer.decode(list(sample.completion)) == f"{problem.solution}<|im_end|>"
    losses = [metrics["loss"] for metrics in loop.train()]
    assert len(losses) == 2
    assert not (tmp_path / "flows").exists()


def test_a_resumed_loop_goes_on_along_the_lines_over_steps(tmp_path: Path) -> None:
    pairs = ["alpha={0: 1.0, 4: 0.0}", "divergence.weight={0: 0.0, 4: 1.0}", "checkpoint_every=1", "steps=2"]
    settings = resolve_train(set_sources([*SMALL, *[f"flow.{pair}" if pair[0] == "a" else pair for pair in pairs]]))
    first = build_trainer(settings, tmp_path, fresh=True)
    whole = list(first.train())
    (tmp_path / "checkpoints" / "step-000002" / "trainer.json").unlink()
    again = build_trainer(settings, tmp_path, fresh=False)
    again.resume(print)
    assert again.step == 1
    (metrics,) = again.train()
    assert metrics["loss"] == whole[1]["loss"]
    assert metrics["loss"] == pytest.approx(0.75 * metrics["flow"] + 0.25 * metrics["divergence"])


@pytest.mark.slow
def test_some_samples_have_the_reference_in_the_place_of_a_rollout(tmp_path: Path) -> None:
    own, mixed, every = (
        trainer(tmp_path / str(share), Distillation(), "batch_size=12", f"rollout.references={share}")
        for share in (0, 0.5, 1)
    )
    drawn, some, references = (loop.rollouts.samples(1).completions for loop in (own, mixed, every))
    read = [one.ids == reference.ids for one, reference in zip(some, references, strict=True)]
    assert 0 < sum(read) < 12
    for is_reference, one, rollout in zip(read, some, drawn, strict=True):
        assert is_reference or one.ids == rollout.ids  # the others are what they were
    assert mixed.rollouts.samples(1).completions == some


def test_a_distillation_may_draw_several_completions_of_a_problem(tmp_path: Path) -> None:
    built = build_trainer(
        resolve_train(set_sources([*SMALL, "objective=opsd", "rollout.per_problem=3"])), tmp_path, fresh=True
    )
    drawn = built.rollouts.samples(1)
    problems = drawn.problems
    assert [problem.id for problem in problems[:3]] == [problems[0].id] * 3
    assert len(problems) == 6
    assert len({completion.ids for completion in drawn.completions[:3]}) > 1


@pytest.mark.parametrize("objective", ["grpo", "oisd", "sft", "opd"])
def test_what_is_estimated_from_rollouts_takes_no_references(objective: str) -> None:
    with pytest.raises(UserError, match=r"rollout\.references: \w+ estimates from tokens that the student drew"):
        build_objective(resolve_train(set_sources([f"objective={objective}", "rollout.references=0.5"])))
    if objective != "opd":
        with pytest.raises(UserError, match=r"rollout\.per_problem: \w+ has its own number"):
            build_objective(resolve_train(set_sources([f"objective={objective}", "rollout.per_problem=2"])))


def test_a_rewarded_objective_gets_groups_of_graded_completions(tmp_path: Path) -> None:
    loop = trainer(tmp_path, PolicyGradient())
    with loop.rollouts.grader:
        drawn = loop.rollouts.samples(1)
    problems, samples = drawn.problems, drawn.samples
    assert len(problems) == 6
    assert problems[0] == problems[2] != problems[3]
    assert len({completion.ids for completion in drawn.completions[:3]}) > 1
    for index, (problem, sample) in enumerate(zip(problems, samples, strict=True)):
        text = str(loop.model.description.tokenizer.decode(list(sample.completion), skip_special_tokens=True))
        assert sample.reward == float(text.endswith(f"\\boxed{{{problem.answer}}}"))
        assert list(sample.group) == [s.reward for s in samples[index // 3 * 3 :][:3]]
        assert len(sample.logprobs) == len(sample.completion)
    metrics = list(loop.train())
    assert metrics[0]["reward"] == sum(s.reward for s in samples) / 6


@pytest.mark.slow
def test_samples_of_like_length_are_computed_together(tmp_path: Path) -> None:
    loop = trainer(tmp_path, CrossEntropy(), "batch_size=8", "micro_batch_size=2")
    samples = loop.rollouts.samples(1).samples
    batches = loop.collate(samples)
    assert sorted(map(id, samples)) == sorted(id(sample) for batch in batches for sample in batch.samples)
    lengths = [sample.columns for batch in batches for sample in sorted(batch.samples, key=lambda s: -s.columns)]
    assert lengths == sorted(lengths, reverse=True)
    (whole,) = trainer(tmp_path / "other", CrossEntropy(), "batch_size=8", "micro_batch_size=8").collate(samples)
    assert list(whole.samples) == samples  # nothing to sort
    split = loop.gradient(batches, whole.counts, ALONE)
    one = loop.gradient([whole], whole.counts, ALONE)
    assert split[:2] == pytest.approx(one[:2], rel=1e-5)
    assert split[2]["padding"] == one[2]["padding"] == 0  # packed


def test_what_cannot_be_packed_is_hardly_padded(tmp_path: Path) -> None:
    loop = trainer(tmp_path, CrossEntropy(Needs(completions=0, teacher=False, lens=2)), "batch_size=8")
    samples = loop.rollouts.samples(1).samples
    whole = collate(samples, 4, loop.model.description.pad_id, loop.model.device)
    counts = whole.counts
    split, one = (loop.gradient(batches, counts, ALONE) for batches in (loop.collate(samples), [whole]))
    assert split[:2] == pytest.approx(one[:2], rel=1e-5)
    assert split[2]["padding"] <= 0.02 < one[2]["padding"]


def test_the_schedule_has_its_own_horizon(tmp_path: Path) -> None:
    loop = trainer(tmp_path, CrossEntropy(), "optim.horizon_steps=4", "optim.lr=1", "optim.max_grad_norm=1e-9")
    rates = [metrics["lr"] for metrics in loop.train()]
    assert rates == pytest.approx([1, 0.5 * (1 + 2**-0.5)])  # at which each step was made
    with pytest.raises(UserError, match=r"steps: 2 is beyond optim\.horizon_steps, 1"):
        trainer(tmp_path / "other", CrossEntropy(), "optim.horizon_steps=1")


def test_few_problems_bring_the_horizon_to_the_last_step(tmp_path: Path) -> None:
    # so little of an epoch is less than a step: the cosine ends with the second step, which is made at its half
    loop = trainer(tmp_path, CrossEntropy(), "optim.horizon_epochs=1e-6", "optim.lr=1", "optim.max_grad_norm=1e-9")
    assert [metrics["lr"] for metrics in loop.train()] == pytest.approx([1, 0.5])


@dataclass
class Poisoned:
    """Good at first; from the third sample on, what is asked for becomes infinite."""

    part: str
    needs: Needs = Needs()
    seen: int = 0

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        total = token_logprobs(student, batch).sum()
        self.seen += len(batch.samples)
        if self.seen > 2 and self.part == "loss":
            total = total + float("inf")
        if self.seen > 2 and self.part == "gradient":
            total = total + (student.hidden.sum() * 0).abs().sqrt()  # whose derivative at 0 is not finite
        return LossTerms({"nll": Term(total, per="tokens")})


@pytest.mark.slow
@pytest.mark.parametrize(("part", "loss"), [("loss", "inf"), ("gradient", None)])
def test_what_is_not_finite_stops_the_run_and_is_saved(tmp_path: Path, part: str, loss: str | None) -> None:
    loop = trainer(tmp_path, Poisoned(part), "steps=3", "checkpoint_every=1")
    steps = loop.train()
    assert next(steps)["step"] == 1
    before = {name: p.detach().clone() for name, p in loop.model.trainable().items()}
    with pytest.raises(FaultError, match=r"step 2: the loss is .*; nothing was updated, the last checkpoint is intact"):
        next(steps)
    assert all(torch.equal(p, before[name]) for name, p in loop.model.trainable().items())
    assert loop.optimizer.state[next(iter(loop.model.trainable().values()))]["step"] == 1
    assert [step for step, _ in checkpoints_of(tmp_path)] == [1]
    saved = json.loads((tmp_path / "faults" / "step-000002.json").read_text())
    assert (saved["step"], len(saved["samples"])) == (2, 2)
    for sample, problem in zip(saved["samples"], loop.rollouts.curriculum.batch(2), strict=True):
        assert sample["student_prompt"] == loop.rollouts.prompts.student(problem.problem)
        assert sample["text"] == loop.model.description.text(sample["completion"])
        assert sample["loss"] == loss if loss else isinstance(sample["loss"], float)
    assert (part == "gradient") == (saved["samples"][0]["grad_norm"] == "nan")


def test_defaults_are_the_published_recipe() -> None:
    config = TrainConfig()
    assert (config.optim.horizon_epochs, config.steps, config.batch_size) == (30, 100, 32)
