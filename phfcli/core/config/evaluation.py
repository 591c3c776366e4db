"""The settings of an evaluation, and of grading samples again."""

from typing import Annotated

from pydantic import Field, PositiveInt

from phfcli.core.config.sections import DataSettings, EngineName, ModelSettings, Positive, Section
from phfcli.core.names import GoldForm, PolicyName


class EvalConfig(ModelSettings, DataSettings):
    """The defaults are the published protocol (PHF, appendix B); `model` is any checkpoint, run, adapter or model."""

    base: str | None = None
    """the model under an adapter, where it is not the one that the adapter names"""
    bench: tuple[str, ...] = ("embedded",)
    """names, files, or hub ids"""
    revision: str | None = None
    """of every hub benchmark; None is the registry's"""
    n: PositiveInt = 12
    """samples of each problem"""
    greedy: bool | None = None
    """one greedy completion of each problem besides; None is true unless the model thinks for more than 4,096 tokens"""
    seed: int = 0
    """of the samples"""
    limit: PositiveInt | None = None
    """the first so many problems"""
    engine: EngineName = "auto"
    """auto is vLLM on a GPU where it is installed, else transformers"""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """tokens are drawn from the likeliest that reach this probability"""
    top_k: Annotated[int, Field(ge=0)] = 0
    """0 is off"""
    max_new_tokens: PositiveInt | None = None
    """None is 38,912, or what the model's context leaves"""
    devices: tuple[str, ...] | None = None
    """one process for each, or for each `vllm.tensor_parallel` of them"""
    workers: PositiveInt | None = None
    """so many processes on the CPU"""
    options_seed: int = 0
    """of the order of a multiple choice's options"""
    overlap: str | None = None
    """look for the problems in this data, named as in `data`; "run" is what the run trained on"""
    grading: PolicyName = "phf"
    """by which mathematics is graded; docs/grading.md says what each does"""
    grader_timeout_s: Positive = 5.0
    """for one answer"""
    output_dir: str | None = None
    """None is the run's own folder"""


class SampleColumns(Section):
    """The names of the columns of a table of completions."""

    problem: str = "problem"
    """or an id; rows of the same one are samples of it"""
    answer: str = "answer"
    """the gold answer"""
    completion: str = "completion"
    """the whole text"""


class GradeConfig(Section):
    """How saved samples are graded again."""

    columns: SampleColumns = SampleColumns()
    gold: GoldForm | None = None
    """how a gold answer is read out of its cell; None is as it looks"""
    grader_timeout_s: Positive = 5.0
    """for one answer"""
