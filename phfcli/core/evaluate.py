"""Evaluation: n samples a problem, each graded and on disk as soon as it is finished, then Average@n with its error."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from phfcli.core.benchmarks import Benchmark, load_benchmark
from phfcli.core.checkpoints import Target, find_target
from phfcli.core.config import EvalConfig, PromptSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.files import append_lines, drop_cut_line, file_hash, read_json, read_lines, write_json
from phfcli.core.grading import Grader, Status
from phfcli.core.models import LanguageModel, load_model
from phfcli.core.prompts import Prompts, build_prompts
from phfcli.core.records import Completion, Problem, Request, Sampling
from phfcli.core.resources import step_name
from phfcli.core.rollouts import Engine, build_engine
from phfcli.core.runs import environment, model_identity, now, saved_config
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import resolve
from phfcli.core.stats import average, majority, pass_at_ks

PUBLISHED_NEW_TOKENS = 38_912
_GRADED_TOGETHER = 64

Sample = dict[str, Any]  # a line of samples.jsonl
Progress = Callable[["Running"], None]


@dataclass(frozen=True)
class Running:
    """Where an evaluation stands."""

    bench: str
    done: int
    total: int
    correct: int
    tokens: int
    seconds: float


@dataclass
class Evaluation:
    """One model, loaded once, with everything that its benchmarks share."""

    config: EvalConfig
    target: Target
    model: LanguageModel
    prompts: Prompts
    engine: Engine
    grader: Grader
    identity: dict[str, Any]  # what must not change between two parts of one evaluation

    def run(self, bench: Benchmark, on_progress: Progress) -> dict[str, Any]:
        """Samples what is missing, grades it, and returns the summary, which is also on disk.

        Raises:
            UserError: where the folder holds samples of other settings, or a prompt does not fit.
        """
        folder, sampling = self.folder(bench), self.sampling(bench)
        self._claim(folder, bench, sampling)
        golds = [problem.answer or "" for problem in bench.problems]
        usable = [p for p, ok in zip(bench.problems, self.grader.check_golds(golds), strict=True) if ok]
        if not usable:
            raise UserError(f"{bench.name}: none of its gold answers can be read")
        seconds = self._sample(folder, bench, usable, sampling, on_progress)
        samples = _keyed(folder, usable, self.config.n)
        summary = {
            **summarise(samples, usable, self.grader, self.config.n),
            "bench": bench.name,
            "unusable_golds": [p.id for p in bench.problems if p not in usable],
            "target": self.target.name,
            "step": self.target.step,
            "seconds": seconds,
            "tokens_per_s": sum(s["tokens"] for s in samples.values()) / max(seconds, 1e-9),
            "bench_sha256": bench.sha256,
            "sampling": asdict(sampling),
            "folder": str(folder),
        }
        write_json(folder / "summary.json", summary)
        return summary

    def folder(self, bench: Benchmark) -> Path:
        """RUN/evals/BENCH-nN, with the step behind it if it is not the run's newest checkpoint.

        What is not a run gets a folder of the same form under runs/.
        """
        name = f"{bench.name}-n{self.config.n}"
        if not self.target.newest:
            name += f"-{step_name(self.target.step or 0)}"
        run = Path(self.config.output_dir) if self.config.output_dir else self.target.run
        return (run or Path("runs") / self.target.name) / "evals" / name

    def sampling(self, bench: Benchmark) -> Sampling:
        """Raises UserError if prompt and new tokens exceed the model's context."""
        config = self.config
        longest = max(len(self.prompts.student(p.problem)) for p in bench.problems)
        room = self.model.context - longest
        wanted = config.max_new_tokens or min(PUBLISHED_NEW_TOKENS, room)
        if not 0 < wanted <= room:
            raise UserError(
                f"--max-new-tokens: the longest prompt of {bench.name} takes {longest} tokens, which leaves "
                f"{max(room, 0)} of the model's context of {self.model.context}"
            )
        return Sampling(config.temperature, config.top_p, config.top_k, wanted)

    def _claim(self, folder: Path, bench: Benchmark, sampling: Sampling) -> None:
        """Records the settings of a new evaluation; refuses to mix other ones into an old one."""
        settings = {
            **self.identity,
            "bench_sha256": bench.sha256,
            "n": self.config.n,
            "seed": self.config.seed,
            "prompt": {"template": self.prompts.student_template, "thinking": self.prompts.thinking},
            "sampling": asdict(sampling),
        }
        if not folder.exists() or {p.name for p in folder.iterdir()} <= {".settings.json.tmp"}:
            write_json(folder / "settings.json", {**settings, "created": now(), **environment(self.model.device)})
            return
        if not (folder / "settings.json").is_file():
            raise UserError(f"{folder} holds something else; choose another --output-dir")
        before = read_json(folder / "settings.json")
        for key, value in settings.items():
            if before.get(key) != value:
                raise UserError(
                    f"{folder} was sampled with {key} {before.get(key)!r}, now it is {value!r}; "
                    "remove the folder or choose another --output-dir"
                )

    def _sample(
        self, folder: Path, bench: Benchmark, usable: Sequence[Problem], sampling: Sampling, on_progress: Progress
    ) -> float:
        """Draws and grades every (problem, sample) that is not on disk yet; returns the seconds spent so far."""
        done = _keyed(folder, usable, self.config.n)
        missing = [(p, i) for p in usable for i in range(self.config.n) if (p.id, i) not in done]
        seeds = [derive_seed(self.config.seed, p.problem, i) for p, i in missing]
        prompts = {p.id: tuple(self.prompts.student(p.problem)) for p in usable}
        requests = [Request(prompts[p.id], seed) for (p, _), seed in zip(missing, seeds, strict=True)]
        before = max((s["seconds"] for s in done.values()), default=0.0)
        correct = sum(s["status"] == Status.correct for s in done.values())
        tokens = sum(s["tokens"] for s in done.values())
        count, total = len(done), len(usable) * self.config.n
        drop_cut_line(folder / "samples.jsonl")
        started = time.perf_counter()
        finished = self.engine.sample(requests, sampling)
        while batch := list(islice(finished, _GRADED_TOGETHER)):
            samples = self._grade([(*missing[index], seeds[index], completion) for index, completion in batch])
            seconds = before + time.perf_counter() - started
            append_lines(folder / "samples.jsonl", [{**s, "seconds": round(seconds, 3)} for s in samples])
            count += len(samples)
            correct += sum(s["status"] == Status.correct for s in samples)
            tokens += sum(s["tokens"] for s in samples)
            on_progress(Running(bench.name, count, total, correct, tokens, seconds))
        return before + time.perf_counter() - started

    def _grade(self, drawn: Sequence[tuple[Problem, int, int, Completion]]) -> list[Sample]:
        texts = [self.model.text(completion.ids) for _, _, _, completion in drawn]
        ended = [i for i, (_, _, _, c) in enumerate(drawn) if c.finish == "stop"]
        graded = self.grader.grade([(drawn[i][0].answer or "", texts[i]) for i in ended])
        grades = dict(zip(ended, graded, strict=True))
        samples = []
        for i, (problem, index, seed, completion) in enumerate(drawn):
            grade = grades.get(i)  # a completion cut by the token limit has no answer
            samples.append(
                {
                    "problem": problem.id,
                    "sample": index,
                    "status": str(grade.status if grade else Status.truncated),
                    "answer": grade.answer if grade else None,
                    "gold": problem.answer,
                    "tokens": len(completion.ids),
                    "seed": seed,
                    "text": texts[i],
                }
            )
        return samples


def evaluate(config: EvalConfig, on_start: Callable[[Evaluation], None], on_progress: Progress) -> list[dict[str, Any]]:
    """Evaluates config.model on each of config.bench; returns their summaries.

    Raises:
        UserError: for anything the user can fix; benches are loaded before the model, so that a typo costs nothing.
    """
    target = find_target(config.model)
    benches = [load_benchmark(name, config.columns, config.limit) for name in config.bench]
    model = load_model(config.model_copy(update={"model": target.model}), target.adapter)
    with Grader(timeout_s=config.grader_timeout_s) as grader:
        engine = build_engine(config.engine, model)
        evaluation = Evaluation(
            config=config,
            target=target,
            model=model,
            prompts=build_prompts(model.tokenizer, _prompt_settings(config, target)),
            engine=engine,
            grader=grader,
            identity={
                "model": model_identity(target.model, model),
                "adapter_sha256": file_hash(target.adapter / "adapter_model.safetensors") if target.adapter else None,
                "dtype": str(model.head.dtype),
                "engine": engine.name,
            },
        )
        for bench in benches:
            evaluation.sampling(bench)
        on_start(evaluation)
        return [evaluation.run(bench, on_progress) for bench in benches]


def summarise(
    samples: dict[tuple[str, int], Sample], problems: Sequence[Problem], grader: Grader, n: int
) -> dict[str, Any]:
    """The figures of an evaluation from its samples; fractions are 0..1."""
    rows = [[samples[p.id, i] for i in range(n)] for p in problems]
    scores = [[float(s["status"] == Status.correct) for s in row] for row in rows]
    mean = average(scores)
    statuses = Counter(s["status"] for row in rows for s in row)
    tokens = [s["tokens"] for row in rows for s in row]
    votes = [grader.equivalence_classes([s["answer"] for s in row]) for row in rows]
    right = [
        {vote for vote, score in zip(row, own, strict=True) if vote is not None and score}
        for row, own in zip(votes, scores, strict=True)
    ]
    return {
        "n": n,
        "problems": len(problems),
        "samples": len(tokens),
        "average": mean.average,
        "stderr": mean.stderr,
        "sampling_stderr": mean.sampling_stderr,
        "pass_at_k": {str(k): value for k, value in pass_at_ks([int(sum(row)) for row in scores], n).items()},
        "majority": majority(votes, right),
        "truncated": statuses[Status.truncated],
        "no_answer": statuses[Status.no_answer],
        "grader_failures": statuses[Status.timeout] + statuses[Status.error],
        "mean_tokens": sum(tokens) / len(tokens),
    }


def _prompt_settings(config: EvalConfig, target: Target) -> PromptSettings:
    """A run is evaluated on the prompts it was trained on, unless others are asked for."""
    if config.prompt == PromptSettings() and target.run is not None:
        return resolve(TrainConfig, [saved_config(target.run)]).prompt
    return config.prompt


def _keyed(folder: Path, problems: Sequence[Problem], n: int) -> dict[tuple[str, int], Sample]:
    """The samples on disk by (problem, sample); a key that stands twice counts once."""
    wanted = {(p.id, i) for p in problems for i in range(n)}
    lines = read_lines(folder / "samples.jsonl")
    keyed = {(line["problem"], line["sample"]): line for line in reversed(lines)}
    return {key: line for key, line in keyed.items() if key in wanted}
