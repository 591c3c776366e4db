"""The samples of an evaluation: the tasks to draw, the sampling settings, and the files that keep the samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.core.config import EvalConfig, PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.grading import Grading, Status
from phfcli.core.runs.folder import recorded_config
from phfcli.core.runs.summaries import GREEDY, SAMPLES
from phfcli.core.runs.targets import Target
from phfcli.core.seeds import derive_seed
from phfcli.core.storage.files import drop_cut_line, is_temporary, writing_alone
from phfcli.core.storage.schemas import EvaluationSettingsForm, SampleForm, read_form, read_forms
from phfcli.core.storage.seals import append_sealed, write_sealed
from phfcli.core.storage.tables import write_parquet
from phfcli.core.types import Completion, Problem, Sampling

if TYPE_CHECKING:
    from phfcli.core.evaluation.benchmarks import Benchmark
    from phfcli.core.models.description import ModelDescription
    from phfcli.core.models.prompts import Prompts

PUBLISHED_NEW_TOKENS = 38_912  # the token limit of the paper's evaluation


def prompt_settings(config: EvalConfig, target: Target) -> PromptSettings:
    """The prompt settings of an evaluation: those of the training run, but for each that config.prompt sets."""
    if target.run is None:
        return config.prompt
    given = {name: getattr(config.prompt, name) for name in config.prompt.model_fields_set}
    return recorded_config(target.run).prompt.model_copy(update=given)


def sampling_of(
    config: EvalConfig, description: "ModelDescription", prompts: "Prompts", bench: "Benchmark"
) -> Sampling:
    """The sampling settings of a benchmark. Raises UserError if prompt and new tokens exceed the model's context."""
    longest = _longest_prompt(prompts, bench)
    room = description.context - longest
    wanted = config.max_new_tokens or min(PUBLISHED_NEW_TOKENS, room)
    if not 0 < wanted <= room:
        raise UserError(
            f"max_new_tokens: the longest prompt of {bench.name} takes {longest} tokens, which leaves "
            f"{max(room, 0)} of the model's context of {description.context}"
        )
    return Sampling(config.temperature, config.top_p, config.top_k, wanted)


def longest_sequence(
    config: EvalConfig, description: "ModelDescription", prompts: "Prompts", bench: "Benchmark"
) -> int:
    """The tokens of a benchmark's longest prompt plus those of a completion at the token limit."""
    return _longest_prompt(prompts, bench) + sampling_of(config, description, prompts, bench).max_new_tokens


def _longest_prompt(prompts: "Prompts", bench: "Benchmark") -> int:
    return max(len(prompts.student(p.problem)) for p in bench.problems)


GradedSample = dict[str, Any]  # a line of samples.jsonl
Key = tuple[str, int]  # problem id, number of the sample

TABLE_COLUMNS = {  # of samples.parquet, with Arrow types; docs/run-files.md explains each
    "bench": "string",
    "target": "string",
    "step": "int64",
    "problem": "string",
    "question": "string",
    "gold": "string",
    "golds": "list<string>",
    "sample": "int64",
    "status": "string",
    "correct": "bool",
    "cut": "bool",
    "looped": "bool",
    "answer": "string",
    "tokens": "int64",
    "seed": "int64",
    "text": "string",
}

# values of the keys that a settings.json of an older version lacks
_DEFAULTS_BEFORE = {"quantization": "none", "grader": "math", "grading": "phf"}


@dataclass(frozen=True)
class SampleFile:
    """FOLDER/samples.jsonl, and beside it settings.json with the settings of all its samples.

    FOLDER/greedy.jsonl has one greedy completion of each problem, in the same form.
    """

    folder: Path
    greedy: bool = False

    @property
    def path(self) -> Path:
        return self.folder / (GREEDY if self.greedy else SAMPLES)

    @contextmanager
    def claim(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[None]:
        """Locks the folder for this process during the context; writes `settings` and `about` into a new folder.

        Raises:
            UserError: the folder holds samples of other settings or other files, or another process writes into it.
        """
        new = not self.folder.exists() or all(p.name == "lock" or is_temporary(p) for p in self.folder.iterdir())
        if not new and not (self.folder / "settings.json").is_file():
            raise UserError(f"{self.folder} holds files of something else; choose another output_dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder}: another evaluation is writing here; wait for it to end"
        with writing_alone(self.folder / "lock", busy):
            if new:
                write_sealed(self.folder / "settings.json", {**settings, **about})
            else:
                self._check(settings)
                for name in (SAMPLES, GREEDY):
                    drop_cut_line(self.folder / name)
            yield

    def read(self, problems: Sequence[Problem], n: int) -> dict[Key, GradedSample]:
        """The samples of these problems by key; of two lines with the same key the first counts."""
        wanted = {(p.id, i) for p in problems for i in range(n)}
        keyed = {(line["problem"], line["sample"]): line for line in reversed(read_forms(self.path, SampleForm))}
        return {key: line for key, line in keyed.items() if key in wanted}

    @property
    def table(self) -> Path:
        return self.folder / "samples.parquet"

    @property
    def page(self) -> Path:
        return self.folder / "samples.html"

    def write_table(
        self, samples: Iterable[GradedSample], problems: Sequence[Problem], about: Mapping[str, Any]
    ) -> None:
        """Writes samples.parquet, ordered by problem and number.

        Args:
            about: `bench`, `target` and `step`, which are the same in all rows.
        """
        questions = {problem.id: problem.problem for problem in problems}
        order = {problem.id: index for index, problem in enumerate(problems)}
        ordered = sorted(samples, key=lambda sample: (order[sample["problem"]], sample["sample"]))
        rows = (
            {
                **about,
                "cut": sample["status"] == Status.truncated,
                "looped": None,  # not known of samples of an earlier version, and of some servers
                **sample,
                "question": questions[sample["problem"]],
                "correct": sample["status"] == Status.correct,
            }
            for sample in ordered
        )
        write_parquet(self.table, rows, TABLE_COLUMNS)

    def append(self, samples: Sequence[GradedSample]) -> None:
        append_sealed(self.path, samples)

    def _check(self, settings: Mapping[str, Any]) -> None:
        before = read_form(self.folder / "settings.json", EvaluationSettingsForm)
        for key, value in settings.items():
            earlier = before.get(key, _DEFAULTS_BEFORE.get(key, value))
            if _content(earlier) != _content(value):
                raise UserError(
                    f"{self.folder} was sampled with {key} {earlier!r}, now it is {value!r}; "
                    "remove the folder or choose another output_dir"
                )


def _content(value: Any) -> Any:
    """What a setting stands for: of a model its hash or commit, whatever the path that it was named by."""
    known = value.get("sha256", value.get("revision")) if isinstance(value, dict) else None
    return value if known is None else known


@dataclass(frozen=True)
class SampleTask:
    """One sample to draw."""

    problem: Problem
    number: int
    seed: int


def greedy_of(sampling: Sampling) -> Sampling:
    """The likeliest token each time, up to the same limit."""
    return Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=sampling.max_new_tokens)


def sample_tasks(bench: "Benchmark", n: int, seed: int) -> list[SampleTask]:
    """n sampling tasks for each problem, each with its own seed."""
    return [SampleTask(p, i, derive_seed(seed, p.problem, i)) for p in bench.problems for i in range(n)]


def grade(
    drawn: Sequence[tuple[SampleTask, Completion]], description: "ModelDescription", grader: Grading
) -> list[GradedSample]:
    """Grades completions. One that the token limit cut off is "truncated", or marked `cut` if the grader reads it."""
    texts = [description.text(completion.ids) for _, completion in drawn]
    cut = [not completion.whole for _, completion in drawn]
    gradable = [i for i in range(len(drawn)) if grader.reads_cut or not cut[i]]
    graded = grader.grade([(drawn[i][0].problem.golds, texts[i]) for i in gradable])
    grades = dict(zip(gradable, graded, strict=True))
    samples = []
    for i, (task, completion) in enumerate(drawn):
        verdict = grades.get(i)
        samples.append(
            {
                "problem": task.problem.id,
                "sample": task.number,
                "status": str(verdict.status if verdict else Status.truncated),
                "answer": verdict.answer if verdict else None,
                "gold": " or ".join(task.problem.golds) or None,  # to read; an accepted answer may hold "or" itself
                "golds": list(task.problem.golds),
                "tokens": len(completion.ids) if completion.served_tokens is None else completion.served_tokens,
                "seed": task.seed,
                "text": texts[i],
                **({"cut": True} if verdict and cut[i] else {}),
                **({"looped": completion.looped} if completion.served_tokens is None else {}),
            }
        )
    return samples
