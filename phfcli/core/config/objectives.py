"""The settings of what is minimised: divergence, flow, teacher, and each objective's own."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, model_validator

from phfcli.core.config.sections import (
    Aggregate,
    Anchored,
    Context,
    Fraction,
    LayerChoice,
    Layers,
    Positive,
    Section,
    TeacherChoice,
    Weight,
)
from phfcli.core.errors import nearest
from phfcli.core.names import StatesTeacherName, Where

Kind = Literal["jsd", "forward_kl", "reverse_kl"]
_Clip = Positive | None


def _own_clip(divergence: dict[str, Any]) -> float | None:
    """The published clip is of jsd; one on the entries of a KL divergence drives some of them the wrong way."""
    return 0.05 if divergence["kind"] == "jsd" else None


def _clip_in_force(clip: object, info: ValidationInfo) -> object:
    """Of a clip for each kind that of the chosen kind. A number is the clip of whatever kind is chosen.

    So a recipe that gives the clip of one kind says nothing of another, and no clip that is given is ever left out.
    """
    if not isinstance(clip, Mapping):
        return clip
    if unknown := clip.keys() - set(get_args(Kind)):
        raise ValueError(f"a clip is a number, or one by kind: {nearest(str(min(unknown)), get_args(Kind))}")
    kind = info.data.get("kind")  # missing where it is itself refused
    return clip.get(kind, _own_clip(info.data)) if kind else None


class ObjectiveSection(Section):
    """Settings that an objective reads, or does not: its `Needs` name the sections that it does."""


class DivergenceSettings(ObjectiveSection):
    kind: Kind = "jsd"
    """between teacher and student, of each token"""
    weight: Weight = 1.0
    """of the divergence in the loss: a number, or a line over the updates made before, as in {0: 0.0, 10: 1.0}"""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """of jsd: the teacher's weight in the mixture"""
    temperature: Positive | None = None
    """of both distributions; None is the rollout's"""
    teacher_temperature: Positive | None = None
    """of the teacher's; None is the same"""
    clip: Annotated[_Clip, BeforeValidator(_clip_in_force, json_schema_input_type=_Clip | dict[Kind, _Clip])] = Field(
        default_factory=_own_clip
    )
    """0.05 for jsd, none for a KL divergence; or of each kind its own, as in clip.jsd=0.06"""
    clip_mode: Literal["element", "token"] = "element"
    """the clip is of each vocabulary entry, or of a token's sum"""
    top_k: PositiveInt | None = None
    """both distributions on so many entries; None is the vocabulary"""
    support: Literal["teacher", "student", "union"] = "teacher"
    """whose likeliest entries those are"""
    tail: bool = False
    """all other entries are one more; without it both are renormalised on the support"""
    one_stop: bool = False
    """all tokens that end a completion count as one"""
    gate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """only tokens that the student itself gives at most this probability, and the mean is over these; None is all"""
    aggregate: Aggregate = "token"
    """mean over all tokens, or over each completion's and then these"""

    @model_validator(mode="after")
    def _means_over_what_the_gate_leaves(self) -> "DivergenceSettings":
        if self.gate is not None and self.aggregate == "sequence":
            raise ValueError(
                "divergence.gate: its mean is over all tokens that it leaves; set divergence.aggregate=token"
            )
        return self

    @model_validator(mode="after")
    def _has_entries(self) -> "DivergenceSettings":
        if self.top_k is None and (self.tail or self.support != "teacher"):
            raise ValueError("divergence.support and divergence.tail are of divergence.top_k entries: set it as well")
        return self

    def of_each_token(self) -> dict[str, Any]:
        """What defines the divergence of a token, but for the temperature, which may be the rollout's."""
        return self.model_dump(exclude={"temperature", "weight", "aggregate", "gate", "one_stop"})


class TargetSettings(ObjectiveSection):
    """A target of two readings: softmax(ln p_0 + bounded(ln p_A - ln p_B) / beta), where A is `teacher.context`."""

    against: Context | None = None
    """the context of p_B, what it says alike is left out; None is the teacher's own distribution as the target"""
    start: Context | None = None
    """the context of p_0, which the contrast shifts; None is `teacher.context`"""
    beta: Positive = 1.0
    """divides the contrast: more stays nearer to p_0"""
    bound: Positive | None = None
    """c of c tanh(x / c) on the contrast, centred over the vocabulary; None is without"""
    floor: Annotated[float, Field(lt=0)] | None = None
    """ln p_B counts at least so much"""

    @model_validator(mode="after")
    def _has_its_contexts(self) -> "TargetSettings":
        if self.against is None and (self.start, self.beta, self.bound, self.floor) != (None, 1.0, None, None):
            raise ValueError("target: its settings shape a contrast; set target.against to a context")
        if "sibling" in (self.against, self.start):
            raise ValueError("target: a sibling is not there for every problem; name another context")
        return self

    def further(self, own: str) -> tuple[str, ...]:
        """The contexts that a teacher of the context `own` reads besides."""
        named = (self.start or own, self.against) if self.against is not None else ()
        return tuple(name for name in dict.fromkeys(named) if name != own)


class FlowSettings(ObjectiveSection):
    alpha: Weight = 0.05
    """weight of the flow loss beside the divergence; or a line over the updates made before"""
    positions: Annotated[int, Field(ge=2)] = 128
    """of a completion at most, evenly spread"""
    layers: Layers | None = None
    """1 is the first decoder block; None is all of them"""
    adjacent: Literal["selected", "next"] = "selected"
    """a chosen block is related to the next chosen, or the very next"""
    saved_samples: Annotated[int, Field(ge=0)] = 8
    """rollouts whose flow is saved with a checkpoint"""


class TeacherSettings(ObjectiveSection):
    kind: TeacherChoice = "ema"
    """an average of the student, the base, the student itself, or another model"""
    decay: Fraction = 0.999
    """of the average, at each step"""
    every: PositiveInt | None = None
    """steps after which a synced teacher is the student again"""
    model: Anchored | None = None
    """of an external teacher: a hub id or folder"""
    context: Context = "reference"
    """what it is shown of a problem: a name of core/names.py, or a text with {COLUMN}"""
    states: StatesTeacherName = "same"
    """whose hidden states are the target, beside these outputs"""

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


class SftSettings(ObjectiveSection):
    max_tokens: PositiveInt = 16_000
    """of the prompt and the reference together"""


class GrpoSettings(ObjectiveSection):
    group_size: Annotated[int, Field(ge=2)] = 8
    """completions of each problem; a step has batch_size x group_size"""
    normalize: bool = True
    """advantages over the deviation of their group"""
    aggregate: Aggregate = "token"
    """mean over all tokens, or over each completion's and then these"""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """the surrogate's clip; the ratio is 1 at one update a rollout"""
    ratio_cap: Annotated[float, Field(ge=1)] = 2.0
    """of the weight that corrects the engine's probability"""


class OisdSettings(ObjectiveSection):
    """The internal teacher of OISD, on top of `grpo`. The paper's weights and its clip are lost: these are ours."""

    layer: PositiveInt | None = None
    """the shadow student, 1 is the first block; None is a sixth of the depth"""
    think: Annotated[float, Field(ge=0)] = 0.1
    """weight of the logit alignment"""
    attention: Annotated[float, Field(ge=0)] = 0.1
    """weight of the attention alignment"""
    advantage_clip: Positive = 1.0
    """advantages count at most so much"""


_OPD_ENTRIES = 16  # of the vocabulary, with opd.support=top_k: as many as OPRD's figure 10 compares


class OpdSettings(ObjectiveSection):
    """The reverse KL divergence, and over what of the vocabulary it is taken."""

    support: Literal["sampled", "top_k", "full"] = "sampled"
    """the token that was drawn, the teacher's 16 likeliest ones, or the whole vocabulary"""
    weight: Weight = 1.0
    """of the divergence in the loss; or a line over the updates made before"""

    @property
    def divergence(self) -> DivergenceSettings:
        """OPD's divergence where it is not estimated from the sampled token: reverse KL, on all entries or a few."""
        entries = _OPD_ENTRIES if self.support == "top_k" else None
        return DivergenceSettings(kind="reverse_kl", top_k=entries, weight=self.weight)


ALL_POSITIONS = 2**31 - 1  # more than a completion has


def _positions(choice: str) -> str:
    if re.fullmatch(r"all|last|(first|last|spread)-[1-9]\d*", choice):
        return choice
    raise ValueError("use all, last, first-K, last-K or spread-K with a number K")


class OprdSettings(ObjectiveSection):
    layers: LayerChoice | None = None
    """None is the last, "all" with a bridge those that it has"""
    positions: Annotated[str, AfterValidator(_positions)] = "all"
    """all, last, first-K, last-K or spread-K"""
    aggregate: Aggregate = "token"
    """mean over all positions, or over each completion's and then these"""
    normalized: bool = False
    """each layer's error over the teacher's mean square"""
    mu: Weight | None = None
    """None is OPRD alone, else OPD + mu * OPRD; a number, or a line over the updates made before"""
    bridge: Anchored | None = None
    """a file of `phf bridge fit`"""

    @property
    def selection(self) -> tuple[int, Where]:
        """How many positions of a completion at most, and which."""
        kind, _, count = self.positions.partition("-")
        if kind == "all":
            return ALL_POSITIONS, "first"
        return int(count or 1), "last" if kind == "last" else "first" if kind == "first" else "spread"
