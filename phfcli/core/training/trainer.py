"""The training loop. A step is the paper's algorithm; the loop does not know which objective it runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict

import torch

from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.device import activations_away
from phfcli.core.models.packing import can_pack
from phfcli.core.models.passes import Batch, Pass, Sample, collate, padding
from phfcli.core.objectives.contract import TokenReadings, loss_terms
from phfcli.core.runs.folder import step_name
from phfcli.core.seeds import derive_seed
from phfcli.core.storage.files import append_lines, as_json, write_json
from phfcli.core.storage.tensors import whole
from phfcli.core.training.alarms import FILE as ALARMS
from phfcli.core.training.metrics import (
    Metrics,
    MetricSums,
    engine_gap,
    entropy_metrics,
    peak_memory,
    sparse_entropy,
    token_metrics,
)
from phfcli.core.training.micro_batches import PADDING, micro_batches, split_up, tokens_at_once
from phfcli.core.training.ranks import ALONE, Ranks, in_contact
from phfcli.core.training.rollouts import Drawing, context_metrics, rollout_metrics
from phfcli.core.training.saving import check_alike, save


class Trainer(Drawing):
    """Runs the steps of a training run."""

    def train(self) -> Iterator[Metrics]:
        """Runs to the last step, or until a rank is told to stop; yields each step's metrics once they are on disk."""
        check_alike(self)
        with self.grader, closing(self.engine), in_contact():
            while not self.done:
                metrics, self.samples = self.train_step(self.step + 1)
                self.step += 1
                alarms = self.alarms.look(metrics)
                if self.ranks.main:
                    append_lines(self.folder / "metrics.jsonl", [metrics])
                if self.ranks.main and alarms:
                    append_lines(self.folder / ALARMS, alarms)
                due = self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps
                if self.validation is not None and self.validation.due(self.step, self.config.steps):
                    due = True  # a checkpoint with each evaluation, and after it: who goes on from there has both
                    self.ahead.finish()  # an evaluation has the engine to itself
                    scores = self.validation.run(self.step, self.model, self.engine, self.grader, self.ranks)
                    metrics |= {"evaluation": scores}
                if alarms:
                    metrics |= {"alarms": alarms}
                if due:
                    save(self)
                yield metrics
                if self.ranks.any(self.stopping):
                    if not due:
                        save(self)
                    return

    @property
    def done(self) -> bool:
        """Whether the last step is completed, or evaluations have not become better for too long."""
        return self.step >= self.config.steps or (self.validation is not None and self.validation.exhausted)

    def train_step(self, step: int) -> tuple[Metrics, list[Sample]]:
        """One update of the student and of its teacher; also returns this rank's rollouts that it was made on."""
        self.phases.start(self.model.device)
        torch.manual_seed(derive_seed(self.config.seed, "step", step))
        problems = self.problems(step)  # (x, r)
        completions = self.rollout(problems, step)  # y ~ p_S(. | x), eq. 1
        shown = self.shown(problems, step)
        self.draw_ahead(step)
        self.phases.done("rollout")
        samples = self.make_samples(problems, completions, shown)
        batches = self.collate(samples)
        self.phases.done("batch")
        counts = self.ranks.total({name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts})
        loss, grad_norm, means = self.gradient(batches, counts, self.ranks)
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            words = f"the loss is {loss} and the norm of its gradient {grad_norm}; nothing was updated"
            raise self.fault(words, loss, grad_norm, samples, counts)
        rate = self.optimizer.param_groups[0]["lr"]
        self.update(grad_norm)
        if not math.isfinite(norm := self.weight_norm()):
            words = f"the norm of the trained weights is {norm} after the update (lower optim.lr)"
            raise self.fault(words, loss, grad_norm, samples)
        self.phases.done("update")
        return {
            "step": step,
            "loss": loss,
            **means,
            "grad_norm": grad_norm,
            "lr": rate,
            **self.teacher.metrics(),
            **rollout_metrics(self, completions, samples),
            **context_metrics(self, problems, shown),
            **({"staleness": self.ahead.staleness} if self.config.rollout.ahead else {}),
            "tokens_per_s": counts["tokens"] / self.phases.seconds,
            **self.phases.metrics(),
            "peak_memory_bytes": max(self.ranks.gather([peak_memory(self.model.device)])),  # of any rank
        }, samples

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
        return [collate(part, needs.positions, pad_id, device, needs.where) for part in parts]

    def gradient(
        self, batches: Sequence[Batch], counts: Mapping[str, float], ranks: Ranks
    ) -> tuple[float, float, Metrics]:
        """The loss of the ranks' batches, its gradient's norm and their metrics; the gradient stays on the parameters.

        Each batch is divided by the counts of all, so ranks, like micro-batches, only have to be summed.
        """
        sums, loss = MetricSums(), 0.0
        self.model.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with activations_away(self.config.offload.activations):
                terms, student = loss_terms(
                    self.objective, self.model, self.teacher, self.base, batch, self.phases.done
                )
            sums.add(terms.metrics | {"padding": padding(self.model, batch, self.objective.needs.lens)})
            self.add_health(sums, terms.readings, student, batch)
            part = terms.total(counts)
            if part.requires_grad:  # that of a loss whose tensors are all detached does not, which is told below
                part.backward()
            loss += part.item()
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
        return ranks.total({"loss": loss})["loss"], norm, sums.means(ranks)

    def add_health(self, sums: MetricSums, readings: TokenReadings | None, student: Pass, batch: Batch) -> None:
        """Adds what a batch says of the policy: its entropy, and how far the engine is from it."""
        if not self.objective.needs.offline:
            gap, largest = engine_gap(student, batch, self.sampling)
            sums.add(gap)
            if largest is not None:
                sums.add_largest("engine_gap_largest", largest)
        if readings is None:
            sums.add(entropy_metrics(sparse_entropy(student, self.sampling.temperature)))
        else:
            sums.add(token_metrics(readings, batch))

    def update(self, grad_norm: float) -> None:
        """Clips the gradient, and updates the weights, the learning rate and the teacher."""
        norm = torch.tensor(grad_norm, device=self.model.device)
        torch.nn.utils.clip_grads_with_norm_(self.model.trainable().values(), self.config.optim.max_grad_norm, norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)  # sampling has use for the memory
        self.teacher.update()  # eq. 11

    @torch.no_grad()
    def weight_norm(self) -> float:
        """The Euclidean norm of all trained weights, infinite or not a number where they cannot be computed with."""
        return whole(torch.nn.utils.get_total_norm(list(self.model.trainable().values()))).item()

    def fault(
        self,
        words: str,
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
            write_json(path, as_json({"step": step, "loss": loss, "grad_norm": grad_norm, "samples": records}))
        return FaultError(f"step {step}: {words}, the last checkpoint is intact, and the batch is in {path}")
