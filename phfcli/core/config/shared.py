"""The settings that training and evaluation share: the model, where it runs, its prompts, the data."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from phfcli.core.config.kinds import GraderChoice, Positive, Section
from phfcli.core.names import BadRows, GoldForm


def _absolute(path: str) -> str:
    """A run is evaluated from any working directory."""
    return str(Path(path).resolve())


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
    # auto is sdpa; for models that cannot be packed FlashAttention 2, on a GPU where it is installed
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    quantization: Literal["none", "nf4", "int8"] = "none"  # of the frozen base, by bitsandbytes
    prompt: PromptSettings = PromptSettings()
    vllm: VllmSettings = VllmSettings()
    http: HttpSettings = HttpSettings()
