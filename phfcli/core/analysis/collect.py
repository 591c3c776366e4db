"""Computes hidden flows of a checkpoint, an adapter or a model for which none was saved."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from phfcli.core.analysis.diagnose import AttentionReadings, LensReadings, ModelReadings, OutputReadings, TokenAttention
from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.grading import build_grader
from phfcli.core.losses.divergence import divergence, logits_entropy
from phfcli.core.losses.fused_divergence import chunk_rows
from phfcli.core.losses.head import Head
from phfcli.core.losses.pointwise import Attention, attention_divergence
from phfcli.core.losses.positions import POSITION_PARTS, position_part, sums_by_part, working
from phfcli.core.models.language_model import LanguageModel, LogitLens, check_logit_lens, lens_layer
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.trial import check_computation
from phfcli.core.names import Where
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, loss_terms
from phfcli.core.objectives.policy import QUERIES, STRIDED, WINDOW
from phfcli.core.objectives.teachers import AveragedTeacher, averages_of, build_base
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.contexts import Context
from phfcli.core.runs.flows import Flow, RolloutStates, open_flow, record_flow, rollout_states_of, write_flow
from phfcli.core.runs.folder import saved_config, step_name
from phfcli.core.runs.problems import Curriculum, load_problems
from phfcli.core.runs.targets import Target, find_target
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.storage.tensors import read_tensors
from phfcli.core.training.rollouts import rewards_of
from phfcli.core.training.setup import check_states
from phfcli.core.types import Request, Sampling

PARTS = 32  # of a map's columns
_TOKENS = 16  # that are named
_LATE = 4  # the last quarter of the rollout asks for them


@dataclass
class AttentionSums:
    """The divergence, summed over rollouts, and what is shown of the first one."""

    model: LanguageModel
    shadow: int
    _divergence: float = 0.0
    _rollouts: int = 0
    _first: tuple[Tensor, Tensor, list[int], list[TokenAttention]] | None = None

    def add(self, batch: Batch) -> None:
        """Rollouts with as many selected positions as OISD has queries."""
        lens = run_pass(self.model, batch.student, batch, (), self.shadow).lens
        assert lens is not None
        columns = (batch.student.prompt_lengths[:, None] + batch.positions - 1).clamp(min=0)  # that predict
        apart = attention_divergence(lens.attention, lens.last, columns, WINDOW, STRIDED)
        counts = batch.valid.sum(-1)
        self._divergence += float((apart.masked_fill(~batch.valid, 0).sum(-1) / counts.clamp(min=1)).sum())
        self._rollouts += int((counts > 0).sum())
        if self._first is None:
            self._first = self._show(lens, batch, columns[0, batch.valid[0]])

    def result(self) -> AttentionReadings:
        assert self._first is not None
        shadow, last, columns, tokens = self._first
        apart = self._divergence / self._rollouts
        return AttentionReadings(apart, 1 - apart / math.log(2), shadow.tolist(), last.tolist(), columns, tokens)

    def _show(
        self, lens: LogitLens, batch: Batch, columns: Tensor
    ) -> tuple[Tensor, Tensor, list[int], list[TokenAttention]]:
        """Of the first rollout of a batch, whose queries are at `columns` [m]."""
        length = int(columns[-1]) + 1
        maps = [head_mean(layer, columns, length).cpu() for layer in (lens.attention, lens.last)]  # [m, T]
        late = columns.cpu() >= length - max(1, len(batch.samples[0].completion) // _LATE)
        shadow, last = (whole[late].mean(0) for whole in maps)  # [T]
        chosen = torch.maximum(shadow, last).topk(min(_TOKENS, length)).indices.sort().values.tolist()
        ids, text = batch.student.input_ids[0].tolist(), self.model.description.text
        tokens = [TokenAttention(c, text([ids[c]]), shadow[c].item(), last[c].item()) for c in chosen]
        return part_sums(maps[0]), part_sums(maps[1]), columns.tolist(), tokens


def head_mean(layer: Attention, columns: Tensor, length: int) -> Tensor:
    """[m, T]: what the first row's queries at columns [m] attend to of its first `length` columns, mean over heads."""
    keys = working(layer.keys[0, :, :length])  # [G, T, c]
    seen = torch.arange(length, device=columns.device)
    rows = []
    for column in columns.tolist():
        queries = working(layer.queries[0, :, column]).unflatten(0, (len(keys), -1))  # [G, H / G, c]
        logits = (queries @ keys.mT * layer.scale).masked_fill(seen > column, -torch.inf)
        rows.append(logits.softmax(-1).mean((0, 1)))
    return torch.stack(rows)


def part_sums(attention: Tensor, parts: int = PARTS) -> Tensor:
    """[m, T] -> [m, P]: the attention that each part of the columns gets; P is T where that is less."""
    m, length = attention.shape
    parts = min(parts, length)
    part = torch.arange(length) * parts // length
    return attention.new_zeros(m, parts).index_add(1, part, attention)


_WORDS = 12  # of the first rollout


@dataclass
class LensSums:
    """Sums over the selected positions, in float64, and what is shown of the first rollout."""

    model: LanguageModel
    shadow: int
    temperature: float
    words: list[str] = field(default_factory=list)
    likeliest: list[list[str]] = field(default_factory=list)
    _sums: Tensor | None = None  # [3, L]
    _count: int = 0

    def add(self, student: Pass, batch: Batch) -> None:
        """student: of `predicting_pass`."""
        values, _ = lens_values(read_states(self.model, student, batch), student.head, self.temperature)
        total = values.sum(-1).cpu()
        self._sums = total if self._sums is None else self._sums + total
        self._count += values.shape[-1]
        if not self.words:
            self._show(batch.samples[0])

    def _show(self, sample: Sample) -> None:
        """Keeps the first tokens of a rollout, one behind the other, and what each block would have written there."""
        beginning = collate([sample], _WORDS, self.model.description.pad_id, self.model.device, "first")
        student = predicting_pass(self.model, beginning)
        _, likeliest = lens_values(read_states(self.model, student, beginning), student.head, self.temperature)
        text = self.model.description.text
        self.words = [text([token]) for token in sample.completion[:_WORDS]]
        self.likeliest = [[text([token]) for token in row] for row in likeliest.tolist()]

    def result(self) -> LensReadings:
        assert self._sums is not None
        entropy, agreement, apart = (self._sums / self._count).tolist()
        return LensReadings(self.shadow, entropy, agreement, apart, self.words, self.likeliest)


def predicting_pass(model: LanguageModel, batch: Batch) -> Pass:
    """The student's pass with every block's states in the columns that predict the selected tokens."""
    before = replace(batch, positions=batch.positions - 1)  # -1 is the last token of the prompt
    return run_pass(model, batch.student, before, range(1, len(model.blocks) + 1))


def read_states(model: LanguageModel, student: Pass, batch: Batch) -> Tensor:
    """[L, n, d]: those states at the valid positions, after the final norm, as the head reads the last block's."""
    states = student.states[:, batch.valid]
    with model.computing():
        normed: Tensor = model.final_norm(states)
    return normed.to(model.compute or states.dtype)


def lens_values(states: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor]:
    """What the head reads of states [L, n, d], the last block's being the model's own prediction.

    Returns:
        [3, L, n], float64: entropy, 1 where the likeliest word is the last block's, jsd(0.5) from its prediction.
        [L, n]: the likeliest word.
    """
    values, words = [], []
    chunk = chunk_rows(states[0], len(head), None)
    for start in range(0, states.shape[1], chunk):
        last = working(head.logits(states[-1, start : start + chunk]))
        by_layer, tops = [], []
        for state in states[:, start : start + chunk]:
            logits = working(head.logits(state))
            tops.append(logits.argmax(-1))
            apart = divergence(logits, last, kind="jsd", temperature=temperature)
            same = tops[-1] == last.argmax(-1)
            by_layer.append(torch.stack([logits_entropy(logits, temperature).double(), same.double(), apart.double()]))
        values.append(torch.stack(by_layer, dim=1))
        words.append(torch.stack(tops))
    return torch.cat(values, dim=-1), torch.cat(words, dim=-1)


TOP = 16  # words, as OPRD has it


def top_overlap(student: Tensor, teacher: Tensor, top: int = TOP) -> Tensor:
    """The share of each reader's `top` likeliest words that the other one has too: logits [n, V] twice -> [n]."""
    top = min(top, student.shape[-1])
    own, other = (logits.topk(top, dim=-1).indices for logits in (student, teacher))  # [n, top]
    common = (own[:, :, None] == other[:, None]).any(-1)
    return common.double().mean(-1)


@dataclass
class OutputSums:
    """Sums over tokens by sixteenth of the rollout, in float64."""

    temperature: float
    _sums: Tensor = field(default_factory=lambda: torch.zeros(3, POSITION_PARTS, dtype=torch.float64))
    _counts: Tensor = field(default_factory=lambda: torch.zeros(POSITION_PARTS, dtype=torch.float64))

    def add(self, student: Pass, teacher: Pass, batch: Batch) -> None:
        values = output_values(student, teacher, self.temperature).cpu()
        rows, offsets = batch.tokens
        part = position_part(offsets, batch.lengths[rows]).cpu()
        for place, own in enumerate(values):
            sums, counts = sums_by_part(own, part, POSITION_PARTS)
            self._sums[place] += sums
        self._counts += counts

    def result(self) -> OutputReadings:
        tokens = int(self._counts.sum())
        means = (self._sums.sum(1) / tokens).tolist()
        parts = zip(*self._sums.tolist(), self._counts.tolist(), strict=True)
        along = [[value / count if count else None for value in own] for *own, count in parts]
        return OutputReadings(tokens, TOP, *means, *map(list, zip(*along, strict=True)))


def output_values(student: Pass, teacher: Pass, temperature: float) -> Tensor:
    """[3, N], float64: the overlap of the likeliest words, the entropy of the student and of the teacher."""
    chunk = chunk_rows(student.hidden, len(student.head), None)
    parts = []
    for start in range(0, len(student.hidden), chunk):
        own, other = (
            working(reader.head.logits(reader.hidden[start : start + chunk])) for reader in (student, teacher)
        )
        entropies = (logits_entropy(logits, temperature).double() for logits in (own, other))
        parts.append(torch.stack([top_overlap(own, other), *entropies]))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Collection:
    """Rollouts that a model reads as student and as teacher, a micro-batch at a time."""

    path: Path
    step: int | None
    config: TrainConfig
    model: LanguageModel
    teacher: AveragedTeacher
    samples: Sequence[Sample]
    teacher_kind: str  # in words
    origin: str  # of the rollouts, in words
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        return list(range(1, len(self.model.blocks) + 1))

    def rollout_states(self) -> Iterator[RolloutStates]:
        """Yields the states of each rollout; only one micro-batch is in memory at a time."""
        size = self.config.micro_batch_size
        for start in range(0, len(self.samples), size):
            flow = self.record(self.samples[start : start + size])
            self.texts.update(flow.texts)
            yield from rollout_states_of(flow)

    def batches(self, positions: int | None = None, where: Where = "spread") -> Iterator[Batch]:
        """The rollouts as micro-batches, with at most so many selected positions; by default as many as a flow has."""
        size, model = self.config.micro_batch_size, self.model
        for start in range(0, len(self.samples), size):
            part = self.samples[start : start + size]
            count = positions or self.config.flow.positions
            yield collate(part, count, model.description.pad_id, model.device, where)

    def save(self, path: Path) -> None:
        """Writes the flow of all samples to a file; all of it has to fit into memory."""
        write_flow(path, self.record(self.samples))

    def record(self, samples: Sequence[Sample]) -> Flow:
        """The flow of some samples, on the CPU."""
        return record_flow(self.model, self.teacher, samples, self.config.flow.positions)


def build_collection(
    target: str, typed: list[Source], base: str | None, rollouts: Path | None, count: int, graded: bool = False
) -> Collection:
    """Loads a model and the rollouts that it will read.

    The rollouts are those of the flow file `rollouts`; or else, without --data, of the flow that the run saved with
    this checkpoint; or else `count` new ones of the target itself, on its run's problems or on `data`. `graded`: for an
    objective that needs rewards these are drawn in its groups, and graded.

    Raises:
        UserError: for anything of it that cannot be used.
    """
    found = find_target(target, base)
    config = _config(found, typed)
    if rollouts is None and not any("data" in source.tree for source in typed):
        rollouts = _saved_flow(found)
    model = load_model(config, found.adapter)
    check_computation(model)
    teacher, teacher_kind = _teacher(found, model)
    if rollouts is not None:
        samples, origin = _saved_rollouts(rollouts), f"those of {rollouts}"
    else:
        samples = _new_rollouts(config, model, count, graded)
        origin = f"{len(samples)} new ones on {config.data}"
    return Collection(Path(target), found.step, config, model, teacher, samples, teacher_kind, origin)


def _config(target: Target, typed: list[Source]) -> TrainConfig:
    own = [saved_config(target.run)] if target.run else []
    return resolve_train([*own, option_source("target", "model", target.model), *typed])


def _saved_flow(target: Target) -> Path | None:
    if target.run is None or target.step is None:
        return None
    path = target.run / "flows" / f"{step_name(target.step)}.safetensors"
    return path if path.is_file() and open_flow(path).rollouts else None


def _saved_rollouts(path: Path) -> list[Sample]:
    rollouts = open_flow(path).rollouts
    if not rollouts:
        raise UserError(f"{path}: a flow file of version 1 does not hold its rollouts; draw new ones with --data")
    return [Sample(r.student_prompt, r.teacher_prompt, r.completion) for r in rollouts]


def _new_rollouts(config: TrainConfig, model: LanguageModel, count: int, graded: bool) -> list[Sample]:
    """New rollouts on the first problems in the seed's order, sampled as training samples them.

    One for each problem; or, to be graded for an objective with rewards, as many as its groups have.
    """
    needs = build_objective(config).needs if graded else Needs()
    size = needs.group_size if needs.reward else 1
    prompts = build_prompts(model.description.tokenizer, config.prompt)
    problems = load_problems(config)
    curriculum = Curriculum(problems, min(-(-count // size), len(problems)), config.seed)
    chosen = [problem for problem in curriculum.batch(1) for _ in range(size)]
    context = Context(config.teacher.context, problems, config.seed)
    requests = [
        Request(tuple(prompts.student(p.problem)), derive_seed(config.seed, "collect", index))
        for index, p in enumerate(chosen)
    ]
    drawn = config.rollout
    sampling = Sampling(drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens)
    by_index = dict(TransformersEngine(model).sample(requests, sampling, logprobs=graded))
    completions = [by_index[index] for index in range(len(requests))]
    samples = [
        Sample(request.prompt_ids, prompts.teacher(p.problem, context.text(p)), own.ids, own.logprobs)
        for p, request, own in zip(chosen, requests, completions, strict=True)
    ]
    if not needs.reward:
        return samples
    with build_grader(config.grader) as grader:
        rewards = rewards_of(grader, model.description, chosen, completions)
    groups = [rewards[index - index % size :][:size] for index in range(len(samples))]
    return [replace(s, reward=r, group=g) for s, r, g in zip(samples, rewards, groups, strict=True)]


def _teacher(target: Target, model: LanguageModel) -> tuple[AveragedTeacher, str]:
    """The teacher of the outputs saved with a checkpoint, or the model itself where none was saved."""
    folder = target.adapter or Path(target.model) / "state"  # of a checkpoint of all weights
    file = folder / "teacher.safetensors"
    averages = averages_of(read_tensors(file)) if file.is_file() else {}
    if not averages:
        return AveragedTeacher({}, decay=0.0), "the model itself"
    own = dict(model.network.named_parameters())
    if missing := averages.keys() - own.keys():
        raise UserError(f"{file}: not a teacher of this model, which has no {min(missing)}")
    teacher = AveragedTeacher({name: own[name] for name in averages}, decay=1.0)
    with torch.no_grad():
        teacher.load_state_dict(averages)
    return teacher, "its running average at this checkpoint"


def read_gradients(collection: Collection) -> dict[str, float]:
    """The norm of each term's gradient over all rollouts, with the term's weight in the loss, before any clipping.

    Raises:
        UserError: where the objective cannot be computed on these rollouts.
    """
    model, objective = collection.model, build_objective(collection.config)
    check_gradients(collection, objective)
    parameters = make_trainable(model)
    model.network.eval()
    base = build_base(model) if objective.needs.base else None
    batches = list(collection.batches(objective.needs.positions, objective.needs.where))
    counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    gradients: dict[str, list[Tensor]] = {}
    for batch in batches:
        terms, _ = loss_terms(objective, model, collection.teacher, base, batch)
        for name, own in term_gradients(terms, counts, parameters).items():
            before = gradients.get(name)
            gradients[name] = own if before is None else [a + b for a, b in zip(before, own, strict=True)]
    return {name: torch.nn.utils.get_total_norm(own).item() for name, own in gradients.items()}


def term_gradients(
    terms: LossTerms, counts: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> dict[str, list[Tensor]]:
    """Of each term the gradient of what it adds to the loss, a tensor for each parameter."""
    found = {}
    for name, term in terms.terms.items():
        own = torch.autograd.grad(term.share(counts), parameters, retain_graph=True, allow_unused=True)
        found[name] = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, own, strict=True)]
    return found


def check_gradients(collection: Collection, objective: Objective) -> None:
    """Raises UserError for an objective that needs more than the rollouts, the model and its own teacher."""
    config, needs = collection.config, objective.needs
    why = None
    if needs.offline:
        why = f"{config.objective} learns from references, not from rollouts"
    elif needs.teacher and config.teacher.kind == "external":
        why = "the teacher is another model, which is not read here"
    elif needs.teacher and config.teacher.states != "same":
        why = "the hidden states have a teacher of their own, which is not read here"
    elif needs.reward and not all(sample.group for sample in collection.samples):
        why = f"{config.objective} needs rewards, which saved rollouts do not have; draw new ones with --data"
    elif config.rollout.ahead and not all(sample.logprobs for sample in collection.samples):
        why = "rollout.ahead weighs tokens by what they were drawn with, which saved rollouts do not have"
    elif config.tuning == "lora" and not adapter_of(collection.model):
        why = "there is no adapter whose gradient it could be; --set tuning=full for that of all weights"
    elif config.tuning == "full" and needs.base:
        why = "base_kl needs the weights before training, which are gone"
    if why:
        raise UserError(f"--gradients: {why}")
    check_states(config, needs, collection.model.causal)


def adapter_of(model: LanguageModel) -> list[nn.Parameter]:
    """The factors of the adapter."""
    return [p for name, p in model.network.named_parameters() if ".lora_" in name]


def make_trainable(model: LanguageModel) -> list[nn.Parameter]:
    """Has the adapter's factors take a gradient, which a loaded one's do not; or all weights where there is none."""
    for p in adapter_of(model):
        p.requires_grad_(True)
    return list(model.trainable().values())


@torch.no_grad()
def read_model(collection: Collection) -> ModelReadings:
    """Passes over the rollouts, a micro-batch at a time: the student's twice, the teacher's once.

    Raises:
        UserError: where oisd.layer names a block that the model does not have.
    """
    model, temperature = collection.model, collection.config.rollout.temperature
    model.network.eval()
    shadow = lens_layer(collection.config.oisd.layer or 0, len(model.blocks))
    if shadow > len(model.blocks):
        raise UserError(f"oisd.layer: the model has {len(model.blocks)} decoder blocks, got {shadow}")
    outputs, lens = OutputSums(temperature), LensSums(model, shadow, temperature)
    attention, why_not = read_attention(collection, shadow)
    for batch in collection.batches():
        student = predicting_pass(model, batch)
        outputs.add(student, collection.teacher.run_pass(model, batch, ()), batch)
        lens.add(student, batch)
    return ModelReadings(temperature, outputs.result(), lens.result(), attention, why_not)


def read_attention(collection: Collection, shadow: int) -> tuple[AttentionReadings | None, str | None]:
    """What is read of the attention; or None, and why it cannot be captured."""
    model = collection.model
    try:
        check_logit_lens(model.causal, shadow)
    except UserError as error:
        return None, str(error)
    sums = AttentionSums(model, shadow)
    for batch in collection.batches(QUERIES):
        sums.add(batch)
    return sums.result(), None
