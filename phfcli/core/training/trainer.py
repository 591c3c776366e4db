"""The training loop. A step is the paper's algorithm; the loop does not know which objective it runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from phfcli.core.config import TrainConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.device import offload_activations
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Sample, collate, padding
from phfcli.core.models.sharding import total
from phfcli.core.models.trial import can_pack
from phfcli.core.objectives.contract import Objective, gated, loss_terms
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.runs.folder import continue_run, step_name, whole_manifest
from phfcli.core.seeds import derive_seed
from phfcli.core.storage.files import as_json
from phfcli.core.storage.schemas import AlarmForm, StepForm, read_forms
from phfcli.core.storage.seals import append_sealed, write_sealed
from phfcli.core.storage.tensors import whole
from phfcli.core.training.alarms import FILE as ALARMS
from phfcli.core.training.alarms import Alarms, resumed_alarms
from phfcli.core.training.metrics import Metrics, MetricSums, Phases, peak_memory, policy_metrics
from phfcli.core.training.micro_batches import PADDING, micro_batches, split_up, tokens_at_once
from phfcli.core.training.ranks import ALONE, Ranks, in_contact
from phfcli.core.training.rollouts import RolloutSource
from phfcli.core.training.saving import Saver
from phfcli.core.training.validation import Validation


@dataclass
class Trainer:
    """Runs the steps of a training run.

    With several ranks each has a trainer of its own. They do the same but for their share of the rollouts, and only the
    main one writes.
    """

    config: TrainConfig
    folder: Path
    model: LanguageModel  # the student
    objective: Objective
    teacher: Teacher
    base: Teacher | None  # the model before any training, where the objective needs it
    rollouts: RolloutSource
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    saver: Saver
    ranks: Ranks = ALONE
    validation: Validation | None = None
    notes: Sequence[str] = ()  # what is shown at the start, a line each
    warnings: Sequence[str] = ()  # what somebody who starts the run should act on, a sentence each
    step: int = 0  # completed
    saved: int = 0  # the last step that this process has made a checkpoint of
    samples: Sequence[Sample] = ()  # of the completed step, this rank's
    alarms: Alarms = field(default_factory=Alarms)
    phases: Phases = field(default_factory=Phases)  # of the present step, timed
    stopping: bool = False  # may be set at any moment, by a signal's handler say

    def train(self) -> Iterator[Metrics]:
        """Runs to the last step, or until a rank is told to stop; yields each step's metrics once they are on disk."""
        self._check_alike()
        with self.rollouts.serving(), in_contact():
            while not self.done:
                metrics, self.samples = self.train_step(self.step + 1)
                self.step += 1
                alarms = self.alarms.look(metrics)
                if self.ranks.main:
                    append_sealed(self.folder / "metrics.jsonl", [metrics])
                if self.ranks.main and alarms:
                    append_sealed(self.folder / ALARMS, alarms)
                due = self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps
                if self.validation is not None and self.validation.due(self.step, self.config.steps):
                    due = True  # a checkpoint with each evaluation, and after it: who goes on from there has both
                    metrics |= {"evaluation": self.evaluate(self.validation)}
                if alarms:
                    metrics |= {"alarms": alarms}
                if due:
                    self.save()
                yield metrics
                if self.ranks.any(self.stopping):
                    if not due:
                        self.save()
                    return

    @property
    def done(self) -> bool:
        """Whether the last step is completed, or evaluations have not become better for too long."""
        return self.step >= self.config.steps or (self.validation is not None and self.validation.exhausted)

    def train_step(self, step: int) -> tuple[Metrics, Sequence[Sample]]:
        """One update of the student and of its teacher; also returns this rank's samples that it was made on."""
        self.phases.start(self.model.device)
        torch.manual_seed(derive_seed(self.config.seed, "step", step))
        rollouts = self.rollouts.samples(step)  # (x, r), and y ~ p_S(. | x), eq. 1
        self.phases.done("rollout")
        batches = self.collate(rollouts.samples)
        self.phases.done("batch")
        counts = self.ranks.total({name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts})
        loss, grad_norm, means = self.gradient(batches, counts, self.ranks)
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            reason = f"the loss is {loss} and the norm of its gradient {grad_norm}; nothing was updated"
            raise self.fault(reason, loss, grad_norm, rollouts.samples, counts)
        rate = self.optimizer.param_groups[0]["lr"]
        self.update(grad_norm)
        if not math.isfinite(norm := self.weight_norm()):
            reason = f"the norm of the trained weights is {norm} after the update (lower optim.lr)"
            raise self.fault(reason, loss, grad_norm, rollouts.samples)
        self.phases.done("update")
        return {
            "step": step,
            "loss": loss,
            **means,
            "grad_norm": grad_norm,
            "lr": rate,
            **self.teacher.metrics(),
            **self.rollouts.metrics(rollouts),
            "tokens_per_s": counts["tokens"] / (times := self.phases.metrics())["seconds"],
            **times,
            "peak_memory_bytes": max(self.ranks.gather([peak_memory(self.model.device)])),  # of any rank
        }, rollouts.samples

    def collate(self, samples: Sequence[Sample]) -> list[Batch]:
        """Micro-batches, the longest samples first: where memory does not suffice, it runs out at once.

        Which samples are computed together does not change the loss: it is a sum.
        """
        needs = self.objective.needs
        pad_id, device = self.model.description.pad_id, self.model.device
        tokens = tokens_at_once(self.model.causal.config, self.model.head.element_size(), device, self.model.sharded)
        packed = needs.lens is None and can_pack(self.model)
        parts = micro_batches(samples, self.config.micro_batch_size, tokens, packed, PADDING)
        if self.model.sharded:  # a pass needs all ranks: each makes as many as the one that makes most
            parts = split_up(parts, max(self.ranks.gather([len(parts)])))
        batches = (collate(part, needs.positions, pad_id, device, needs.where, self.step) for part in parts)
        return [gated(batch, self.model, needs.gate, self.config.rollout.temperature) for batch in batches]

    def gradient(
        self, batches: Sequence[Batch], counts: Mapping[str, float], ranks: Ranks
    ) -> tuple[float, float, Metrics]:
        """The loss of the ranks' batches, its gradient's norm and their metrics; the gradient stays on the parameters.

        Each batch is divided by the counts of all, so ranks, like micro-batches, only have to be summed.
        """
        sums, losses = MetricSums(), []
        self.model.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with offload_activations(self.config.offload.activations):
                terms, student = loss_terms(
                    self.objective, self.model, self.teacher, self.base, batch, self.phases.done
                )
            sums.add(terms.metrics | {"padding": padding(self.model, batch, self.objective.needs.lens)})
            sampling = None if self.objective.needs.offline else self.config.rollout.sampling
            policy_metrics(sums, terms.readings, student, batch, sampling, self.config.rollout.temperature)
            part = terms.total(counts)
            if part.requires_grad:  # that of a loss whose tensors are all detached does not, which is told below
                part.backward()
            losses.append(part.detach())
            self.phases.done("loss")
        gradients = [p.grad for p in self.model.trainable().values() if p.grad is not None]
        if not gradients:
            raise UserError(
                f"objective {self.config.objective}: no gradient of its loss reaches a weight that trains; compute the "
                "loss from student.hidden or student.states, and detach neither"
            )
        if not self.model.fully_sharded:  # whose gradients the backward pass has summed and spread
            ranks.sum_(gradients)
        norm = whole(torch.nn.utils.get_total_norm(gradients)).item()
        loss = sum(torch.stack(losses).tolist())
        return ranks.total({"loss": loss})["loss"], norm, sums.means(ranks)

    def update(self, grad_norm: float) -> None:
        """Clips the gradient, and updates the weights, the learning rate and the teacher."""
        norm = torch.full((), grad_norm, device=self.model.device)
        torch.nn.utils.clip_grads_with_norm_(self.model.trainable().values(), self.config.optim.max_grad_norm, norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)  # sampling has use for the memory
        self.teacher.update()  # eq. 11

    @torch.no_grad()
    def weight_norm(self) -> float:
        """The Euclidean norm of all trained weights, infinite or not a number where they cannot be computed with."""
        return whole(torch.nn.utils.get_total_norm(list(self.model.trainable().values()))).item()

    def evaluate(self, validation: Validation) -> dict[str, object]:
        """The scores of the present weights on the benchmark of the run, by the engine that draws its rollouts."""
        self.rollouts.ahead.finish()  # an evaluation has the engine to itself
        return validation.run(self.step, self.model, self.rollouts.engine, self.rollouts.grader, self.ranks)

    def save(self) -> None:
        """A checkpoint of the completed step."""
        self.saver.save(self.step, self.samples, self.rollouts.ahead)
        self.saved = self.step

    def resume(
        self, warn: Callable[[str], None], forced: Sequence[str] = (), manifest: dict[str, Any] | None = None
    ) -> None:
        """Goes back to the newest checkpoint that can be read; with none, the run starts over.

        manifest: the run's, where it has been read.
        forced: what is not as it was when the run began, a sentence each, for the manifest.
        """
        with self.ranks.main_first():
            self.step, skipped = self.saver.load_newest(self.rollouts.ahead)
            if self.ranks.main:
                for reason in skipped:
                    warn(f"{reason}; going back to {f'step {self.step}' if self.step else 'the start'}")
                for reason in continue_run(self.folder, self.step, manifest or whole_manifest(self.folder), forced):
                    warn(reason)
            metrics = read_forms(self.folder / "metrics.jsonl", StepForm)
            self.alarms = resumed_alarms(metrics, read_forms(self.folder / ALARMS, AlarmForm))
            if self.validation is not None:
                self.validation.read(self.step)
                if self.ranks.main:
                    self.validation.point()

    def _check_alike(self) -> None:
        """Raises FaultError where ranks do not start from the same weights at the same step."""
        weights = total([p.detach().double().square().sum() for p in self.model.trainable().values()])
        if len(set(self.ranks.gather([(self.step, weights)]))) > 1:
            raise FaultError(
                "the processes do not hold the same weights: the run's folder must be one that all machines share"
            )

    def fault(
        self,
        reason: str,
        loss: float,
        grad_norm: float,
        samples: Sequence[Sample],
        counts: Mapping[str, float] | None = None,
    ) -> FaultError:
        """Saves a batch that has led to numbers that are not finite.

        counts: of the batch, for what each of its samples alone adds; None where the weights themselves are not finite.
        """
        step, records = self.step + 1, []
        for sample in samples:
            records.append(asdict(sample) | {"text": self.model.description.text(sample.completion)})
            if counts is not None:
                alone = self.gradient(self.collate([sample]), counts, ALONE)
                records[-1] |= dict(zip(("loss", "grad_norm", "metrics"), alone, strict=True))
        path = self.folder / "faults" / f"{step_name(step)}.json"
        records = self.ranks.gather(records)
        if self.ranks.main:
            write_sealed(path, as_json({"step": step, "loss": loss, "grad_norm": grad_norm, "samples": records}))
        return FaultError(f"step {step}: {reason}, the last checkpoint is intact, and the batch is in {path}")
