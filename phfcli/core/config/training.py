"""The settings of a training run."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from phfcli.core.config.objectives import (
    DivergenceSettings,
    FlowSettings,
    GrpoSettings,
    OisdSettings,
    OpdSettings,
    OprdSettings,
    SftSettings,
    TargetSettings,
    TeacherSettings,
)
from phfcli.core.config.sections import (
    Anchored,
    BelowOne,
    DataSettings,
    EngineName,
    Fraction,
    ModelSettings,
    ObjectiveChoice,
    Positive,
    Section,
    TrackerChoice,
)
from phfcli.core.errors import nearest
from phfcli.core.names import TOKEN_WEIGHTS
from phfcli.core.types import Sampling


class LoraSettings(Section):
    r: PositiveInt = 64
    """rank of the adapter"""
    alpha: PositiveInt = 128
    """the adapter's product counts alpha / r times"""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """names of linear layers of the decoder blocks; "all-linear" is every one: for Qwen3 the seven published"""


class OptimSettings(Section):
    lr: Positive = 5e-6
    """AdamW's learning rate at its highest"""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """AdamW's"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's"""
    max_grad_norm: Positive = 0.1
    """gradients are scaled down to this norm"""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """in which the rate rises from 0"""
    horizon_epochs: Positive = 30
    """the horizon of the cosine, `steps` at least; training itself ends at `steps`"""
    horizon_steps: PositiveInt | None = None
    """the same horizon in steps, instead"""


class RolloutSettings(Section):
    engine: EngineName = "auto"
    """auto is vLLM on a GPU where it is installed, else transformers"""
    max_new_tokens: PositiveInt = 1024
    """of a completion"""
    temperature: Positive = 1.1
    """of the student's sampling"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """tokens are drawn from the likeliest that reach this probability"""
    top_k: Annotated[int, Field(ge=0)] = 20
    """0 is off"""
    per_problem: PositiveInt = 1
    """completions of each problem, for a distillation; GRPO has a group_size"""
    references: Fraction = 0.0
    """the share of samples that have the reference in the place of a rollout"""
    ahead: Annotated[int, Field(ge=0, le=1)] = 0
    """1 draws them a step ahead, beside the update: one update old"""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_new_tokens)


class EvaluationSettings(Section):
    """Evaluation in the course of training, sampled as `phf eval` does but for these."""

    every: PositiveInt | None = None
    """steps; None is never"""
    bench: Anchored | None = None
    """a benchmark, named as for `phf eval`"""
    n: PositiveInt = 4
    """samples of each problem"""
    limit: PositiveInt | None = 64
    """the first so many problems"""
    max_new_tokens: PositiveInt | None = None
    """None is the rollouts'"""
    patience: PositiveInt | None = None
    """so many evaluations without a better one end the run; None is never"""


class OffloadSettings(Section):
    """What waits in the machine's memory while a GPU has no use for it; the numbers are the same."""

    activations: bool = False
    """what the backward pass needs of the forward pass"""


def _weights(kind: str) -> str:
    if kind in TOKEN_WEIGHTS or re.fullmatch(r"skip-first-[1-9]\d*", kind):
        return kind
    raise ValueError(f"{kind!r} is unknown; use skip-first-N with a number N, or: {nearest(kind, TOKEN_WEIGHTS)}")


class TrainConfig(ModelSettings, DataSettings):
    model: Anchored = "embedded"
    """a folder or a hub id; "embedded" is the model that comes with phf"""
    data: Anchored = "siyanzhao/Openthoughts_math_30k_opsd"
    """a file, "embedded", or HUB, HUB:SPLIT, HUB:CONFIG:SPLIT"""
    overlong: Literal["error", "skip"] = "error"
    """problems whose prompt, reference and rollout exceed the context"""
    objective: ObjectiveChoice = "phf"
    """what is minimised"""
    weights: Annotated[str, AfterValidator(_weights)] = "uniform"
    """what a distillation's tokens weigh: uniform, sigmoid (later ones more, PW-OPSD), skip-first-N"""
    reward_weight: Annotated[float, Field(ge=0)] = 0.0
    """of GRPO's loss beside a distillation's, with `grpo`'s settings"""
    base_kl: Annotated[float, Field(ge=0)] = 0.0
    """weight of KL(student || base) beside any objective"""
    seed: int = 0
    """of everything that is drawn"""
    steps: PositiveInt = 100
    """the last step"""
    batch_size: PositiveInt = 32
    """problems a step"""
    micro_batch_size: PositiveInt = 4
    """sequences a forward and backward pass"""
    gradient_checkpointing: bool = False
    """activations are computed again in the backward pass"""
    checkpoint_every: PositiveInt = 25
    """steps"""
    keep: PositiveInt | None = None
    """the newest so many checkpoints; None is all, and their flows stay in any case"""
    output_dir: str | None = None
    """None is runs/OBJECTIVE-MODEL-seedN"""
    report_to: tuple[TrackerChoice, ...] = ()
    """trackers"""
    tuning: Literal["lora", "full"] = "lora"
    """an adapter, or every weight (kept in float32)"""
    sharding: Literal["none", "fsdp"] = "none"
    """of the frozen base over processes, or of all weights where those train"""
    lora: LoraSettings = LoraSettings()
    optim: OptimSettings = OptimSettings()
    rollout: RolloutSettings = RolloutSettings()
    divergence: DivergenceSettings = DivergenceSettings()
    target: TargetSettings = TargetSettings()
    flow: FlowSettings = FlowSettings()
    teacher: TeacherSettings = TeacherSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    offload: OffloadSettings = OffloadSettings()
    sft: SftSettings = SftSettings()
    grpo: GrpoSettings = GrpoSettings()
    oisd: OisdSettings = OisdSettings()
    opd: OpdSettings = OpdSettings()
    oprd: OprdSettings = OprdSettings()

    @model_validator(mode="after")
    def _contrasts_what_every_problem_has(self) -> "TrainConfig":
        if self.target.against is None:
            return self
        if self.teacher.kind == "external":
            raise ValueError("target.against: an external teacher reads the problem alone; leave target out")
        if self.teacher.context == "sibling":
            raise ValueError("target.against: a sibling is not there for every problem; set another teacher.context")
        if self.target.against == self.teacher.context:
            raise ValueError("target.against: it is teacher.context itself, so nothing is left of the contrast")
        return self
