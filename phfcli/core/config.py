"""The settings of a run. The defaults are the published recipe (PHF, appendix A and table 3)."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from phfcli.core.errors import nearest
from phfcli.core.extensions import known
from phfcli.core.names import (
    CONTEXTS,
    ENGINES,
    GRADERS,
    OBJECTIVES,
    TEACHERS,
    TOKEN_WEIGHTS,
    TRACKERS,
    WEIGHTED_OBJECTIVES,
    BadRows,
    GoldForm,
    PolicyName,
    StateDtype,
    StatesTeacherName,
    Where,
)

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


_known_engine = known("engines", ENGINES, ", or the http://HOST:PORT of a vLLM server")


def _engine(name: str) -> str:
    return name if name.startswith(("http://", "https://")) else _known_engine(name)


def _positions(choice: str) -> str:
    if re.fullmatch(r"all|last|(first|last|spread)-[1-9]\d*", choice):
        return choice
    raise ValueError("use all, last, first-K, last-K or spread-K with a number K")


def _weights(kind: str) -> str:
    if kind in TOKEN_WEIGHTS or re.fullmatch(r"skip-first-[1-9]\d*", kind):
        return kind
    raise ValueError(f"{kind!r} is unknown; use skip-first-N with a number N, or: {nearest(kind, TOKEN_WEIGHTS)}")


def _context(text: str) -> str:
    if text in CONTEXTS or re.search(r"\{\w+\}", text):
        return text
    raise ValueError(f"{text!r} is unknown; {nearest(text, CONTEXTS)}, or a text with {{COLUMN}} of the data")


def _own_clip(divergence: dict[str, Any]) -> float | None:
    """The published clip is of jsd; one on the entries of a KL divergence drives some of them the wrong way."""
    return 0.05 if divergence["kind"] == "jsd" else None


def _layer(layer: object) -> object:
    """A decoder block, 1 is the first; or how deep it lies: "50%" is the middle one."""
    if isinstance(layer, int) and layer >= 1:
        return layer
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", str(layer))
    if share and 0 < float(share[1]) <= 100:
        return layer
    raise ValueError("a block is its number, 1 is the first, or a share of the depth such as 50%")


def _absolute(path: str) -> str:
    """A run is evaluated from any working directory."""
    return str(Path(path).resolve())


Aggregate = Literal["token", "sequence"]
EngineName = Annotated[str, AfterValidator(_engine)]
Context = Annotated[str, AfterValidator(_context)]
ObjectiveChoice = Annotated[str, AfterValidator(known("objectives", OBJECTIVES))]
TeacherChoice = Annotated[str, AfterValidator(known("teachers", TEACHERS))]
TrackerChoice = Annotated[str, AfterValidator(known("trackers", TRACKERS))]
GraderChoice = Annotated[str, AfterValidator(known("graders", GRADERS))]

Layers = tuple[Annotated[int | str, BeforeValidator(_layer)], ...]
LayerChoice = Layers | Literal["last", "all", "even", "odd"]  # "even" is 2, 4, ...

ALL_POSITIONS = 2**31 - 1  # more than a completion has


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraSettings(Section):
    r: PositiveInt = 64  # rank of the adapter
    alpha: PositiveInt = 128  # the adapter's product counts alpha / r times
    # names of linear layers of the decoder blocks; "all-linear" is every one: for Qwen3 the seven published
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class OptimSettings(Section):
    lr: Positive = 5e-6  # AdamW's learning rate at its highest
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # AdamW's
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # AdamW's
    max_grad_norm: Positive = 0.1  # gradients are scaled down to this norm
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # in which the rate rises from 0
    # the horizon of the cosine; training itself ends at `steps`
    horizon_epochs: Positive = 30
    horizon_steps: PositiveInt | None = None  # the same horizon in steps, instead


class RolloutSettings(Section):
    engine: EngineName = "auto"  # auto is vLLM on a GPU where it is installed, else transformers
    max_new_tokens: PositiveInt = 1024  # of a completion
    temperature: Positive = 1.1  # of the student's sampling
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95  # tokens are drawn from the likeliest that reach this probability
    top_k: Annotated[int, Field(ge=0)] = 20  # 0 is off
    per_problem: PositiveInt = 1  # completions of each problem, for a distillation; GRPO has a group_size
    references: Fraction = 0.0  # the share of samples that have the reference in the place of a rollout
    ahead: Annotated[int, Field(ge=0, le=1)] = 0  # 1 draws them a step ahead, beside the update: one update old


class DivergenceSettings(Section):
    kind: Literal["jsd", "forward_kl", "reverse_kl"] = "jsd"  # between teacher and student, of each token
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of jsd: the teacher's weight in the mixture
    temperature: Positive | None = None  # of both distributions; None is the rollout's
    teacher_temperature: Positive | None = None  # of the teacher's; None is the same
    clip: Positive | None = Field(default_factory=_own_clip)  # 0.05 for jsd, none for a KL divergence
    clip_mode: Literal["element", "token"] = "element"  # the clip is of each vocabulary entry, or of a token's sum
    top_k: PositiveInt | None = None  # both distributions on so many entries; None is the vocabulary
    support: Literal["teacher", "student", "union"] = "teacher"  # whose likeliest entries those are
    tail: bool = False  # all other entries are one more; without it both are renormalised on the support
    aggregate: Aggregate = "token"  # mean over all tokens, or over each completion's and then these

    @model_validator(mode="after")
    def _has_entries(self) -> "DivergenceSettings":
        if self.top_k is None and (self.tail or self.support != "teacher"):
            raise ValueError("divergence.support and divergence.tail are of divergence.top_k entries: set it as well")
        return self

    def of_each_token(self) -> dict[str, Any]:
        """What defines the divergence of a token, but for the temperature, which may be the rollout's."""
        return self.model_dump(exclude={"temperature", "aggregate"})


class FlowSettings(Section):
    alpha: Annotated[float, Field(ge=0)] = 0.05  # weight of the flow loss beside the divergence
    positions: Annotated[int, Field(ge=2)] = 128  # of a completion at most, evenly spread
    layers: Layers | None = None  # 1 is the first decoder block; None is all of them
    adjacent: Literal["selected", "next"] = "selected"  # a chosen block is related to the next chosen, or the very next
    saved_samples: Annotated[int, Field(ge=0)] = 8  # rollouts whose flow is saved with a checkpoint
    saved_every: PositiveInt = 1  # only with checkpoints of a step that is a multiple of it
    saved_dtype: StateDtype = "model"  # of the saved states: the model's own, or a compact one

    def saves(self, step: int) -> bool:
        return self.saved_samples > 0 and step % self.saved_every == 0


class TeacherSettings(Section):
    kind: TeacherChoice = "ema"  # an average of the student, the base, the student itself, or another model
    decay: Fraction = 0.999  # of the average, at each step
    every: PositiveInt | None = None  # steps after which a synced teacher is the student again
    model: str | None = None  # of an external teacher: a hub id or folder
    context: Context = "reference"  # what it is shown of a problem: a name of core/names.py, or a text with {COLUMN}
    states: StatesTeacherName = "same"  # whose hidden states are the target, beside these outputs

    @model_validator(mode="after")
    def _is_itself_where_states_are_anothers(self) -> "TeacherSettings":
        if self.kind == "external" and self.states != "same":
            raise ValueError("teacher.states is for a teacher that is the student itself, not for an external one")
        return self

    @model_validator(mode="after")
    def _is_synced_every_so_often(self) -> "TeacherSettings":
        if (self.kind == "synced") != (self.every is not None):
            raise ValueError("a synced teacher follows in jumps: set both teacher.kind=synced and teacher.every")
        return self

    @model_validator(mode="after")
    def _has_its_model(self) -> "TeacherSettings":
        if (self.kind == "external") != (self.model is not None):
            raise ValueError(
                "an external teacher is a model of its own: set both teacher.kind=external and teacher.model"
            )
        if self.kind == "external" and self.context != "reference":
            raise ValueError("an external teacher reads the problem alone: leave teacher.context out")
        return self


class EvaluationSettings(Section):
    """Evaluation in the course of training, sampled as `phf eval` does but for these."""

    every: PositiveInt | None = None  # steps; None is never
    bench: str | None = None  # as in `phf eval --bench`
    n: PositiveInt = 4  # samples of each problem
    limit: PositiveInt | None = 64  # the first so many problems
    max_new_tokens: PositiveInt | None = None  # None is the rollouts'
    patience: PositiveInt | None = None  # so many evaluations without a better one end the run; None is never


class HealthSettings(Section):
    """What is measured of the policy at each step; nothing of it changes the training."""

    fork_entropy: Positive = math.log(2)  # nats: above it a token is a fork, as open as a choice between two
    every: PositiveInt | None = None  # steps between gradient norms by depth and distances to the base; None is never


class SftSettings(Section):
    max_tokens: PositiveInt = 16_000  # of the prompt and the reference together


class GrpoSettings(Section):
    group_size: Annotated[int, Field(ge=2)] = 8  # completions of each problem; a step has batch_size x group_size
    normalize: bool = True  # advantages over the deviation of their group
    aggregate: Aggregate = "token"  # mean over all tokens, or over each completion's and then these
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2  # the surrogate's clip; the ratio is 1 at one update a rollout
    ratio_cap: Annotated[float, Field(ge=1)] = 2.0  # of the weight that corrects the engine's probability


class OisdSettings(Section):
    """The internal teacher of OISD, on top of `grpo`. The paper's weights and its clip are lost: these are ours."""

    layer: PositiveInt | None = None  # the shadow student, 1 is the first block; None is a sixth of the depth
    think: Annotated[float, Field(ge=0)] = 0.1  # weight of the logit alignment
    attention: Annotated[float, Field(ge=0)] = 0.1  # weight of the attention alignment
    advantage_clip: Positive = 1.0  # advantages count at most so much
    queries: Annotated[int, Field(ge=2)] = 32  # of each completion, evenly spread
    window: PositiveInt = 64  # a query's newest keys
    strided: Annotated[int, Field(ge=0)] = 64  # and at most so many of the earlier ones


class OpdSettings(Section):
    """The reverse KL divergence, and over what of the vocabulary it is taken."""

    # the token that was drawn, the teacher's likeliest ones, or the whole vocabulary
    support: Literal["sampled", "top_k", "full"] = "sampled"
    top_k: PositiveInt = 16  # the teacher's likeliest entries, with support top_k
    ratio_cap: Annotated[float, Field(ge=1)] = 2.0  # of the weight of a sampled token that was drawn a step ahead


class OprdSettings(Section):
    layers: LayerChoice | None = None  # None is the last; a bridge has its own
    positions: Annotated[str, AfterValidator(_positions)] = "all"  # all, last, first-K, last-K or spread-K
    normalized: bool = False  # each layer's error over the teacher's mean square
    mu: Annotated[float, Field(ge=0)] | None = None  # None is OPRD alone, else OPD + mu * OPRD
    bridge: str | None = None  # a file of `phf bridge fit`

    @property
    def selection(self) -> tuple[int, Where]:
        """How many positions of a completion at most, and which."""
        kind, _, count = self.positions.partition("-")
        if kind == "all":
            return ALL_POSITIONS, "first"
        return int(count or 1), "last" if kind == "last" else "first" if kind == "first" else "spread"


class PromptSettings(Section):
    """Templates with {problem} and, for the teacher, {solution}. None is the wording of core/models/prompts.py."""

    student: str | None = None  # the student's template
    teacher: str | None = None  # the teacher's template
    thinking: bool = True  # the student's mode, in training and evaluation
    teacher_thinking: bool | None = None  # None is the student's
    chat_template: Annotated[str, AfterValidator(_absolute)] | None = None  # a Jinja file; None is the tokenizer's own


class ColumnSettings(Section):
    """The names of a data set's columns."""

    problem: str = "problem"  # the column of problems
    solution: str = "solution"  # the column of reference solutions
    answer: str = "answer"  # the column of gold answers


class VllmSettings(Section):
    """How vLLM is run; None is a default that depends on what it is for."""

    tensor_parallel: PositiveInt = 1  # devices that share one model
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = None  # of a GPU: 0.9, and 0.3 beside a trainer
    max_num_seqs: PositiveInt | None = None  # sequences computed at once
    sleep: bool = True  # in training: between rollouts its memory is the trainer's


class HttpSettings(Section):
    """How a vLLM server is used."""

    adapter_folder: str | None = None  # where the server reads training adapters from; None is a temporary folder
    in_flight: PositiveInt = 256  # requests at once
    patience_s: Positive = 600.0  # for a server that fails without any success in between
    timeout_s: Positive = 3600.0  # for one request


class DataSettings(Section):
    """How the rows of a data set become problems."""

    columns: ColumnSettings = ColumnSettings()
    bad_rows: BadRows = "error"  # or "skip": they are counted, listed and left out
    gold: GoldForm = "as-is"  # how a gold answer is read out of its cell
    grader: GraderChoice = "math"  # of answers, where a benchmark does not bring its own


class ModelSettings(Section):
    """What train and eval share: the model, where it runs, how it is prompted."""

    model: str = "embedded"  # a folder, a hub id, or "embedded"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto is bfloat16 on a GPU and float32 on a CPU
    device: str = "auto"  # auto is the GPU if there is one
    # auto is FlashAttention 2 on a GPU where it is installed
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    quantization: Literal["none", "nf4", "int8"] = "none"  # of the frozen base, by bitsandbytes
    prompt: PromptSettings = PromptSettings()
    vllm: VllmSettings = VllmSettings()
    http: HttpSettings = HttpSettings()


class TrainConfig(ModelSettings, DataSettings):
    data: str = "siyanzhao/Openthoughts_math_30k_opsd"  # a file, "embedded", or HUB, HUB:SPLIT, HUB:CONFIG:SPLIT
    overlong: Literal["error", "skip"] = "error"  # problems whose prompt, reference and rollout exceed the context
    objective: ObjectiveChoice = "phf"  # what is minimised
    # which tokens of a completion a distillation looks at: uniform, early, late, forks, prefix-importance, skip-first-N
    weights: Annotated[str, AfterValidator(_weights)] = "uniform"
    reward_weight: Annotated[float, Field(ge=0)] = 0.0  # of GRPO's loss beside a distillation's, with `grpo`'s settings
    base_kl: Annotated[float, Field(ge=0)] = 0.0  # weight of KL(student || base) beside any objective
    seed: int = 0  # of everything that is drawn
    steps: PositiveInt = 100  # the last step
    batch_size: PositiveInt = 32  # problems a step
    micro_batch_size: PositiveInt = 4  # sequences a forward and backward pass
    gradient_checkpointing: bool = False  # activations are computed again in the backward pass
    checkpoint_every: PositiveInt = 25  # steps
    keep: PositiveInt | None = None  # the newest so many checkpoints; None is all, and their flows stay in any case
    output_dir: str | None = None  # None is runs/OBJECTIVE-MODEL-seedN
    report_to: tuple[TrackerChoice, ...] = ()  # trackers
    tuning: Literal["lora", "full"] = "lora"  # an adapter, or every weight (kept in float32)
    sharding: Literal["none", "fsdp"] = "none"  # of the frozen base over processes
    lora: LoraSettings = LoraSettings()
    optim: OptimSettings = OptimSettings()
    rollout: RolloutSettings = RolloutSettings()
    divergence: DivergenceSettings = DivergenceSettings()
    flow: FlowSettings = FlowSettings()
    teacher: TeacherSettings = TeacherSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    health: HealthSettings = HealthSettings()
    sft: SftSettings = SftSettings()
    grpo: GrpoSettings = GrpoSettings()
    oisd: OisdSettings = OisdSettings()
    opd: OpdSettings = OpdSettings()
    oprd: OprdSettings = OprdSettings()

    @model_validator(mode="after")
    def _draws_what_it_needs(self) -> "TrainConfig":
        if self.rollout.per_problem > 1 and self.objective in ("sft", "grpo", "oisd"):
            raise ValueError(
                f"rollout.per_problem: {self.objective} has its own number of completions (grpo.group_size; sft none)"
            )
        if self.rollout.ahead and self.objective == "sft":
            raise ValueError("rollout.ahead: sft reads the references and draws nothing that could be drawn ahead")
        if self.reward_weight > 0 and self.objective in ("sft", "grpo", "oisd"):
            raise ValueError(f"reward_weight: {self.objective} is no distillation that a reward could stand beside")
        if self.reward_weight > 0 and self.rollout.per_problem > 1:
            raise ValueError("rollout.per_problem: with reward_weight a problem has grpo.group_size completions")
        if self.rollout.references > 0 and self.draws_to_estimate:
            raise ValueError(
                f"rollout.references: {self.objective} estimates from tokens that the student drew, so all have to be"
            )
        if self.weights != "uniform" and not self.weighs_tokens:
            raise ValueError(f"weights: {self.objective} has a term that weighs all tokens alike; leave weights out")
        return self

    @property
    def weighs_tokens(self) -> bool:
        """Whether every term of the objective can look at some tokens more than at others."""
        return self.objective in WEIGHTED_OBJECTIVES or (self.objective == "opd" and self.opd.support != "sampled")

    @property
    def draws_to_estimate(self) -> bool:
        """Whether the objective holds only for completions that were drawn from the student."""
        opd = self.objective == "opd" or (self.objective == "oprd" and self.oprd.mu is not None)
        estimated = self.objective in ("sft", "grpo", "oisd") or self.reward_weight > 0
        return estimated or (opd and self.opd.support == "sampled")


class EvalConfig(ModelSettings, DataSettings):
    """The defaults are the published protocol (PHF, appendix B); `model` is any checkpoint, run, adapter or model."""

    base: str | None = None  # the model under an adapter, where it is not the one that the adapter names
    bench: tuple[str, ...] = ("embedded",)  # names, files, or hub ids
    revision: str | None = None  # of every hub benchmark; None is the registry's
    n: PositiveInt = 12  # samples of each problem
    seed: int = 0  # of the samples
    limit: PositiveInt | None = None  # the first so many problems
    engine: EngineName = "auto"  # auto is vLLM where it can be used, else transformers
    temperature: Annotated[float, Field(ge=0)] = 1.0  # 0 is greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95  # tokens are drawn from the likeliest that reach this probability
    top_k: Annotated[int, Field(ge=0)] = 0  # 0 is off
    max_new_tokens: PositiveInt | None = None  # None is 38,912, or what the model's context leaves
    devices: tuple[str, ...] | None = None  # one process for each, or for each `vllm.tensor_parallel` of them
    workers: PositiveInt | None = None  # so many processes on the CPU
    options_seed: int = 0  # of the order of a multiple choice's options
    overlap: str | None = None  # look for the problems in this data, as --data has it; "run" is what the run trained on
    grading: PolicyName = "phf"  # by which mathematics is graded; docs/grading.md says what each does
    grader_timeout_s: Positive = 5.0  # for one answer
    output_dir: str | None = None  # None is the run's own folder


class SampleColumns(Section):
    """The names of the columns of a table of completions."""

    problem: str = "problem"  # or an id; rows of the same one are samples of it
    answer: str = "answer"  # the gold answer
    completion: str = "completion"  # the whole text


class GradeConfig(Section):
    """How saved samples are graded again."""

    columns: SampleColumns = SampleColumns()
    gold: GoldForm | None = None  # how a gold answer is read out of its cell; None is as it looks
    grader_timeout_s: Positive = 5.0  # for one answer
