"""Evaluates a model: samples n completions per problem, grades each and writes it at once, then computes the scores."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benches.benchmarks import check_golds, load_benchmarks
from phfcli.core.evaluation.benches.overlap import overlaps_of
from phfcli.core.evaluation.evaluator import OUR_POLICY, Evaluator, Progress
from phfcli.core.evaluation.identity import check_base, identity_of, trained_otherwise
from phfcli.core.evaluation.sampling import longest_sequence, prompt_settings
from phfcli.core.grading import Grading, build_grader
from phfcli.core.models.adapters.files import check_adapter
from phfcli.core.models.chat_template import PLAIN_TEMPLATE
from phfcli.core.models.description import load_description
from phfcli.core.models.prompts import build_prompts
from phfcli.core.rollouts.build_engine import evaluation_engine
from phfcli.core.rollouts.engine import Serving
from phfcli.core.runs.checkpoint_choice import Target, find_target
from phfcli.core.runs.model_card import card_of
from phfcli.core.storage.files import write_text
from phfcli.core.storage.locks import kept
from phfcli.core.storage.writable import check_folder

Warn = Callable[[str], None]


def evaluate(
    config: EvalConfig, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    """Evaluates config.model on each of config.bench; returns their summaries.

    Raises:
        UserError: for anything the user can fix; all of it is looked at before the model's weights are loaded.
    """
    target = find_target(config.model, config.base)
    with _kept(target):
        return _evaluate(config, target, on_start, on_progress, warn)


@contextmanager
def _kept(target: Target) -> Iterator[None]:
    """A checkpoint of a live run stays while it is evaluated, whatever the run removes."""
    if target.run is None:
        yield
        return
    folder = target.adapter or Path(target.model)
    with kept(folder / "trainer.json"):
        yield


def _evaluate(
    config: EvalConfig, target: Target, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    check_folder("--output-dir", Path(config.output_dir) if config.output_dir else target.run or Path("runs"))
    benches = load_benchmarks(config.bench, config)
    overlaps = overlaps_of(config, target, benches)
    description = load_description(target.model)
    identity = identity_of(config, target)
    if target.adapter is not None:
        check_adapter(target.adapter, description)
        check_base(target, identity["model"])
    prompts = build_prompts(description.tokenizer, prompt_settings(config, target))
    if prompts.chat_template == PLAIN_TEMPLATE:
        warn(prompts.notes()[1])
    if trained := trained_otherwise(config, target):
        warn(trained)
    length = max(longest_sequence(config, description, prompts, bench) for bench in benches)
    serving = Serving(config.model_copy(update={"model": target.model}), length, target.adapter)
    with ExitStack() as stack:
        names = dict.fromkeys(bench.grader for bench in benches)
        graders = {name: stack.enter_context(_grader(name, config)) for name in names}
        benches = [check_golds(bench, graders[bench.grader]) for bench in benches]
        engine = stack.enter_context(closing(evaluation_engine(config, serving, warn)))
        evaluation = Evaluator(config, target, description, prompts, engine, identity, overlaps)
        on_start(evaluation)
        summaries = [evaluation.run(bench, graders[bench.grader], on_progress) for bench in benches]
    if target.adapter is not None and target.run is not None and target.step is not None:
        # not where all weights were trained: the card is one of the files by which such a model is known
        try:
            write_text(target.adapter / "README.md", card_of(target.run, target.step))
        except UserError as error:  # of another evaluation of the run: this one is complete
            warn(f"the model card keeps its old scores: {error}")
    return summaries


def _grader(name: str, config: EvalConfig) -> Grading:
    if name != "math" and config.grading != OUR_POLICY:
        raise UserError(f"grading: {config.grading} grades mathematics, and grader {name!r} is a rule of its own")
    return build_grader(name, config.grader_timeout_s, config.grading)
