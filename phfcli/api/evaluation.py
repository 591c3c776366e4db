"""Evaluation from Python."""

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import checks_arguments, data_name, is_rows, sources_of
from phfcli.api.results import Evaluation
from phfcli.core.errors import UserError

if TYPE_CHECKING:
    from phfcli.api.arguments import GivenRows
    from phfcli.api.results import Run
    from phfcli.core.config import EvalConfig


_ONE_AT_A_TIME = threading.RLock()  # calls in several threads share the device, and libraries that know one caller


@checks_arguments
def evaluate(
    target: "Run | str | Path",
    bench: "str | Path | Sequence[str | Path] | GivenRows | None" = None,
    n: int | None = None,
    *,
    greedy: bool | None = None,
    grader: str | None = None,
    base: str | Path | None = None,
    engine: str | None = None,
    devices: Sequence[str] | None = None,
    workers: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    limit: int | None = None,
    seed: int | None = None,
    output_dir: str | Path | None = None,
    config: "str | Path | Mapping[str, Any] | EvalConfig | Sequence[Any]" = (),
    progress: bool = True,
) -> Evaluation:
    """Sample n completions of each problem, grade each, and average: Average@n with its standard error.

        scores = phf.evaluate(run, bench="embedded", n=12)
        scores = phf.evaluate("Qwen/Qwen3-4B", ["aime24", "aime25"], devices=["0", "1"])
        scores.average, scores.to_pandas(), scores.samples(), scores.problems()

    Samples are on disk as they finish. The same call again goes on where a stopped one ended, and reads what is done.

    Args:
        target: a `Run` (its newest checkpoint), or the path of a run, a checkpoint, an adapter or a model, or a hub id.
        bench: a benchmark's name or file, or several; or rows with `problem` and `answer`: a DataFrame, a Dataset or a
            list of mappings, which are kept in runs/data. None is "embedded".
        n: samples of each problem (12).
        greedy: one greedy completion of each problem besides; None is true unless the model thinks for
            more than 4,096 tokens.
        grader: "math" (the default), "choice", one that was registered, or FILE.py:NAME, a function of (gold,
            completion).
        base: the model under an adapter, if not the one that the adapter names.
        engine: what samples: "auto", "transformers", "vllm", the URL of a server, or one that was registered.
        devices: GPUs to sample on, one process for each.
        workers: so many sampling processes on the CPU.
        max_new_tokens: tokens of a completion at most; None is 38,912, or what the model's context leaves.
        temperature: 1.0 is the published one; 0 is greedy.
        limit: only the first so many problems.
        seed: of the samples (0).
        output_dir: where the evaluation is kept; None is the run's own folder, or one under runs/.
        config: settings beneath the arguments, as in `train`.
        progress: show a bar, on a terminal or in a notebook.

    Raises:
        UserError: for a mistake in the arguments or files; everything is checked before the model is loaded.
        FaultError: for a fault of the machine or a server; finished samples are kept.
    """
    several = bench if isinstance(bench, Sequence) and not isinstance(bench, str) and not is_rows(bench) else [bench]
    benches = [data_name("bench", own) for own in several]
    if not benches:
        raise UserError("bench: is empty")
    given = {
        "target": str(getattr(target, "folder", target)),
        "bench": None if bench is None else [str(own) for own in benches],
        "n": n,
        "greedy": greedy,
        "grader": grader,
        "base": base,
        "engine": engine,
        "devices": None if devices is None else list(devices),
        "workers": workers,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "limit": limit,
        "seed": seed,
        "output_dir": output_dir,
    }
    sources = sources_of(config, given, keys={"target": "model"})
    from phfcli.api.progress import SampleBar, undisturbed
    from phfcli.core.config import EvalConfig
    from phfcli.core.evaluation import evaluator as core
    from phfcli.core.evaluation.scores import notes_of
    from phfcli.core.settings import resolve

    settings = resolve(EvalConfig, sources)
    with _ONE_AT_A_TIME, undisturbed(), SampleBar(progress) as bar:
        summaries = core.evaluate(settings, lambda _: None, bar.show, _warn)
    for note in (note for summary in summaries for note in notes_of(summary)):
        _warn(note)
    return Evaluation(tuple(summaries))


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
