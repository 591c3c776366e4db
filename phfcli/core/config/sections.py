"""What the settings are made of: sections, checked values, and those that training and evaluation share."""

import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from phfcli.core.errors import nearest
from phfcli.core.extensions import anchored, known
from phfcli.core.names import CONTEXTS, ENGINES, GRADERS, TEACHERS, TRACKERS, BadRows, GoldForm
from phfcli.core.shipped_files import EMBEDDED, objectives

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Aggregate = Literal["token", "sequence"]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Numbers go into tensors and files, which hold whole ones of 64 bits."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("must be below 2**63")
        return value


_known_engine = known("engines", ENGINES, ", or the http://HOST:PORT of a vLLM server")


def _engine(name: str, info: ValidationInfo) -> str:
    if not name.startswith(("http://", "https://")):
        return _known_engine(name, info)
    if "@" in name.partition("://")[2].partition("/")[0]:
        raise ValueError(
            "a password in a URL would be written into files; leave it out and put the key in VLLM_API_KEY"
        )
    return name


def _context(text: str) -> str:
    if text in CONTEXTS or re.search(r"\{\w+\}", text):
        return text
    raise ValueError(f"{text!r} is unknown; {nearest(text, CONTEXTS)}, or a text with {{COLUMN}} of the data")


def _layer(layer: object) -> object:
    """A decoder block, 1 is the first; or how deep it lies: "50%" is the middle one."""
    if isinstance(layer, int) and layer >= 1:
        return layer
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", str(layer))
    if share and 0 < float(share[1]) <= 100:
        return layer
    raise ValueError("a block is its number, 1 is the first, or a share of the depth such as 50%")


def is_line(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it is a line over steps: {step: value, ...}."""
    return isinstance(value, Mapping) and bool(value) and all(str(key).isdecimal() for key in value)


def _weight(given: object) -> object:
    """A number, or a line over steps in the order of these."""
    if is_line(given):
        return {int(step): _weight(given[step]) for step in sorted(given, key=int)}
    try:
        number = float(given) if isinstance(given, int | float | str) and not isinstance(given, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        raise ValueError("must be a number, or a line over steps such as {0: 1.0, 10: 0.0}")
    if number < 0:
        raise ValueError("must be greater than or equal to 0")
    return number


def weight_at(weight: "Weight", updates: int) -> float:
    """The weight of the step before which so many updates were made: linear between points, constant beyond them."""
    if isinstance(weight, float):
        return weight
    before = max((step for step in weight if step <= updates), default=min(weight))
    after = min((step for step in weight if step > updates), default=before)
    share = 0.0 if updates <= before or after == before else (updates - before) / (after - before)
    return weight[before] + share * (weight[after] - weight[before])


_NotNegative = Annotated[float, Field(ge=0)]
Weight = Annotated[
    float | dict[int, float],
    BeforeValidator(_weight, json_schema_input_type=_NotNegative | dict[int, _NotNegative]),
]
EngineName = Annotated[str, AfterValidator(_engine)]
Context = Annotated[str, AfterValidator(_context)]
ObjectiveChoice = Annotated[str, AfterValidator(known("objectives", objectives()))]
TeacherChoice = Annotated[str, AfterValidator(known("teachers", TEACHERS))]
TrackerChoice = Annotated[str, AfterValidator(known("trackers", TRACKERS))]
GraderChoice = Annotated[str, AfterValidator(known("graders", GRADERS))]
Layers = tuple[Annotated[int | str, BeforeValidator(_layer)], ...]
LayerChoice = Layers | Literal["last", "all", "even", "odd"]  # "even" is 2, 4, ...


def _absolute(path: str) -> str:
    """A run is evaluated from any working directory."""
    return str(Path(path).resolve())


def _anchored(name: str) -> str:
    """A name that is a path here means the same file or folder from any working directory."""
    try:
        return _absolute(name) if name not in ("", EMBEDDED) and Path(name).exists() else anchored(name)
    except OSError:  # longer than a path can be, say
        return name


Anchored = Annotated[str, AfterValidator(_anchored)]


class PromptSettings(Section):
    """Templates with {problem} and, for the teacher, {solution}. None is the wording of core/models/prompts.py."""

    student: str | None = None
    """the student's template"""
    teacher: str | None = None
    """the teacher's template"""
    thinking: bool = True
    """the student's mode, in training and evaluation"""
    teacher_thinking: bool | None = None
    """None is the student's"""
    chat_template: Annotated[str, AfterValidator(_absolute)] | None = None
    """a Jinja file; None is the tokenizer's own"""
    day: datetime.date | None = None
    """of a template that reads the clock, YYYY-MM-DD; None is the day of the start, which the record keeps"""


class ColumnSettings(Section):
    """The names of a data set's columns."""

    problem: str = "problem"
    """the column of problems"""
    solution: str = "solution"
    """the column of reference solutions"""
    answer: str = "answer"
    """the column of gold answers"""


class VllmSettings(Section):
    """How vLLM is run; None is a default that depends on what it is for."""

    tensor_parallel: PositiveInt = 1
    """devices that share one model"""
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """of a GPU: 0.9, and 0.3 beside a trainer"""
    max_num_seqs: PositiveInt | None = None
    """sequences computed at once"""
    sleep: bool = True
    """in training: between rollouts its memory is the trainer's"""


class HttpSettings(Section):
    """How a server is used."""

    api: Literal["vllm", "chat"] = "vllm"
    """vllm is by token ids; chat is /v1/chat/completions of any server, for evaluations"""
    key: str = "VLLM_API_KEY"
    """the environment variable that holds the server's key"""
    adapter_folder: str | None = None
    """where the server reads training adapters from; None is a temporary folder"""
    in_flight: PositiveInt = 256
    """requests at once"""
    patience_s: Positive = 600.0
    """for a server that fails without any success in between"""
    timeout_s: Positive = 3600.0
    """for one request"""


class DataSettings(Section):
    """How the rows of a data set become problems."""

    columns: ColumnSettings = ColumnSettings()
    bad_rows: BadRows = "error"
    """or "skip": they are counted, listed and left out"""
    gold: GoldForm = "as-is"
    """how a gold answer is read out of its cell"""
    grader: GraderChoice = "math"
    """of answers, where a benchmark does not bring its own"""


class ModelSettings(Section):
    """What train and eval share: the model, where it runs, how it is prompted."""

    model: str = "embedded"
    """a folder or a hub id; "embedded" is the model that comes with phf"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 on a GPU and float32 on a CPU"""
    device: str = "auto"
    """auto is the accelerator that torch finds, but for a Mac's, else the CPU"""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """auto is sdpa; for models that cannot be packed FlashAttention 2, on a GPU where it is installed"""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """of the frozen base, by bitsandbytes"""
    prompt: PromptSettings = PromptSettings()
    vllm: VllmSettings = VllmSettings()
    http: HttpSettings = HttpSettings()
