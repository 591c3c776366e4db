"""The training loop: one step is the paper's algorithm, and it does not know which objective it runs."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from phfcli.core.cards import stable_name
from phfcli.core.checkpoints import checkpoints_of, load_checkpoint, prune_checkpoints, save_checkpoint, set_aside
from phfcli.core.config import TrainConfig
from phfcli.core.data import Curriculum
from phfcli.core.errors import FaultError, UserError
from phfcli.core.files import append_lines, as_json, write_json
from phfcli.core.flows import save_flow
from phfcli.core.grading import Grader, Status, last_box
from phfcli.core.meters import Meter, Metrics, peak_memory
from phfcli.core.models import LanguageModel
from phfcli.core.objectives import LossTerms, Objective
from phfcli.core.passes import Batch, Sample, collate, run_pass
from phfcli.core.prompts import Prompts
from phfcli.core.recording import record_flow
from phfcli.core.records import Completion, Problem, Request, Sampling
from phfcli.core.resources import step_name
from phfcli.core.rollouts import TrainingEngine
from phfcli.core.runs import continue_run
from phfcli.core.seeds import derive_seed
from phfcli.core.teachers import AveragedTeacher


@dataclass
class Trainer:
    """Everything a step needs; `model` is the student, and under `teacher.weights()` the teacher."""

    config: TrainConfig
    folder: Path
    model: LanguageModel
    teacher: AveragedTeacher
    objective: Objective
    engine: TrainingEngine
    prompts: Prompts
    curriculum: Curriculum
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    grader: Grader = field(default_factory=Grader)  # its workers start when an objective wants rewards
    step: int = 0  # completed
    stopping: bool = False  # may be set at any moment, by a signal's handler say

    def train(self) -> Iterator[Metrics]:
        """Runs to the last step, or until it is told to stop; yields each step's metrics after they are on disk."""
        with self.grader, closing(self.engine):
            while self.step < self.config.steps:
                metrics, samples = self.train_step(self.step + 1)
                self.step += 1
                append_lines(self.folder / "metrics.jsonl", [metrics])
                if due := self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self.save(samples)
                yield metrics
                if self.stopping:
                    if not due:
                        self.save(samples)
                    return

    def train_step(self, step: int) -> tuple[Metrics, list[Sample]]:
        """One update of the student and of its teacher; also returns the rollouts it was made on."""
        started = time.perf_counter()
        torch.manual_seed(derive_seed(self.config.seed, "step", step))
        problems = self.problems(step)  # (x, r)
        completions = self.rollout(problems, step)  # y ~ p_S(. | x), eq. 1
        sampled = time.perf_counter()
        samples = self.read(problems, completions)
        batches = self.collate(samples)
        counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
        loss, grad_norm, means = self.gradient(batches, counts)
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise self.fault(loss, grad_norm, samples, counts)
        self.update()
        seconds = time.perf_counter() - started
        return {
            "step": step,
            "loss": loss,
            **means,
            "grad_norm": grad_norm,
            "lr": self.schedule.get_last_lr()[0],
            **({"teacher_distance": self.teacher.distance()} if self.objective.needs.teacher else {}),
            **_rollout_metrics(completions),
            **({"reward": sum(s.reward for s in samples) / len(samples)} if self.objective.needs.reward else {}),
            "tokens_per_s": counts["tokens"] / seconds,
            "rollout_seconds": sampled - started,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory(self.model.device),
        }, samples

    def problems(self, step: int) -> list[Problem]:
        """The problems of a step, each as often as the objective wants a completion of it."""
        return [problem for problem in self.curriculum.batch(step) for _ in range(self.objective.needs.group_size)]

    def rollout(self, problems: Sequence[Problem], step: int) -> list[Completion]:
        """The student's own completions in the order of the problems; the references of an offline objective."""
        if self.objective.needs.offline:
            return [self._reference(problem) for problem in problems]
        settings = self.config.rollout
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, settings.max_new_tokens)
        requests = [
            Request(tuple(self.prompts.student(p.problem)), derive_seed(self.config.seed, "rollout", step, index))
            for index, p in enumerate(problems)
        ]
        self.engine.update(self.model)
        return [
            completion for _, completion in sorted(self.engine.sample(requests, sampling), key=lambda pair: pair[0])
        ]

    def read(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Sample]:
        """Each completion after the student's prompt and, where the objective asks, after the teacher's."""
        rewards = self._rewards(problems, completions) if self.objective.needs.reward else [0.0] * len(problems)
        size = self.objective.needs.group_size
        return [
            Sample(
                student_prompt=self.prompts.student(problem.problem),
                teacher_prompt=self._teacher_prompt(problem),
                completion=completion.ids,
                logprobs=completion.logprobs,
                reward=reward,
                group=rewards[index - index % size :][:size],
            )
            for index, (problem, completion, reward) in enumerate(zip(problems, completions, rewards, strict=True))
        ]

    def collate(self, samples: Sequence[Sample]) -> list[Batch]:
        """Micro-batches of samples of like length: little is padded. The longest come first: memory runs out at once.

        Which samples are computed together does not change the loss: it is a sum.
        """
        size, needs = self.config.micro_batch_size, self.objective.needs
        order = sorted(range(len(samples)), key=lambda index: samples[index].columns, reverse=True)
        parts = [[samples[i] for i in sorted(order[first : first + size])] for first in range(0, len(order), size)]
        return [collate(part, needs.positions, self.model.card.pad_id, self.model.device) for part in parts]

    def gradient(self, batches: Sequence[Batch], counts: dict[str, int]) -> tuple[float, float, Metrics]:
        """The loss of some batches, its gradient's norm and their metrics; the gradient stays on the parameters."""
        meter, loss = Meter(), 0.0
        self.model.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            terms = self.terms(batch)
            part = terms.total(counts)
            part.backward()
            loss += part.item()
            meter.add(terms.metrics | {"padding": batch.padding})
        gradients = [p.grad for p in self.model.trainable().values() if p.grad is not None]
        return loss, torch.nn.utils.get_total_norm(gradients).item(), meter.means()

    def terms(self, batch: Batch) -> LossTerms:
        """Both passes over the same tokens, then the objective."""
        layers = self.objective.needs.layers
        if layers is None:
            layers = tuple(range(1, len(self.model.blocks) + 1))
        privileged = None
        if batch.teacher is not None:
            with torch.no_grad(), self.teacher.weights():
                privileged = run_pass(self.model, batch.teacher, batch, layers)  # p_T(. | x, r, y_<t), eq. 2
        student = run_pass(self.model, batch.student, batch, layers)
        return self.objective.loss(student, privileged, batch)

    def update(self) -> None:
        """Clip, AdamW, schedule, teacher."""
        torch.nn.utils.clip_grad_norm_(self.model.trainable().values(), self.config.optim.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)  # sampling has use for the memory
        self.teacher.update()  # eq. 11

    def fault(self, loss: float, grad_norm: float, samples: Sequence[Sample], counts: dict[str, int]) -> FaultError:
        """Saves a batch whose loss or gradient is not finite, and what each of its samples alone adds to them."""
        step, records = self.step + 1, []
        for sample in samples:
            alone = self.gradient(self.collate([sample]), counts)
            text = self.model.card.text(sample.completion)
            records.append(
                asdict(sample) | {"text": text} | dict(zip(("loss", "grad_norm", "metrics"), alone, strict=True))
            )
        path = self.folder / "faults" / f"{step_name(step)}.json"
        write_json(path, as_json({"step": step, "loss": loss, "grad_norm": grad_norm, "samples": records}))
        return FaultError(
            f"step {step}: the loss is {loss} and the norm of its gradient {grad_norm}; nothing was updated, the last "
            f"checkpoint is intact, and the batch is in {path}"
        )

    def save(self, samples: Sequence[Sample]) -> None:
        """A checkpoint of the completed step, and the hidden flow of some of its rollouts under its weights."""
        flow = self.config.flow
        if flow.saves(self.step) and samples[0].teacher_prompt is not None:
            recorded = record_flow(self.model, self.teacher, samples[: flow.saved_samples], flow.positions)
            save_flow(self.folder, self.step, recorded, flow.saved_dtype)
        state = {"step": self.step, "model": stable_name(self.config.model), "schedule": self.schedule.state_dict()}
        folder = self.folder / "checkpoints" / step_name(self.step)
        save_checkpoint(folder, self.model, self.teacher, self.optimizer, state)
        prune_checkpoints(self.folder, self.config.keep)

    def resume(self, warn: Callable[[str], None]) -> None:
        """Goes back to the newest checkpoint that can be read; with none, the run starts over."""
        skipped = []
        for step, folder in reversed(checkpoints_of(self.folder)):
            try:
                state = load_checkpoint(folder, self.model, self.teacher, self.optimizer)
            except UserError as error:
                skipped.append(f"checkpoint skipped: {error}; set aside as {set_aside(folder).name}")
                continue
            self.schedule.load_state_dict(state["schedule"])
            for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
                group["lr"] = rate  # which the schedule itself would only do after the next step
            self.step = step
            break
        for reason in skipped:
            warn(f"{reason}; going back to {f'step {self.step}' if self.step else 'the start'}")
        continue_run(self.folder, self.step)

    def _rewards(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[float]:
        """1 for a completion whose answer is the problem's, else 0, by the grader of evaluation."""
        texts = [self.model.card.text(completion.ids) for completion in completions]
        golds = [problem.answer or last_box(problem.solution or "") or "" for problem in problems]
        grades = self.grader.grade(list(zip(golds, texts, strict=True)))
        whole = [completion.finish == "stop" for completion in completions]
        return [float(ok and grade.status == Status.correct) for ok, grade in zip(whole, grades, strict=True)]

    def _reference(self, problem: Problem) -> Completion:
        assert problem.solution is not None
        return Completion(tuple(self.prompts.target(problem.problem, problem.solution)), (), finish="stop")

    def _teacher_prompt(self, problem: Problem) -> list[int] | None:
        needs = self.objective.needs
        if not needs.teacher:
            return None
        assert problem.solution is not None
        if needs.privileged:
            return self.prompts.teacher(problem.problem, problem.solution)
        return self.prompts.student(problem.problem)


def _rollout_metrics(completions: Sequence[Completion]) -> Metrics:
    count = len(completions)
    return {
        "rollout_tokens": sum(len(c.ids) for c in completions) / count,
        "truncated": sum(c.finish == "length" for c in completions) / count,
    }
