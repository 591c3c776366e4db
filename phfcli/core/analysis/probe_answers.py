"""The experiment of a probe: a model, problems, and graded completions, plain and under each context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.grading import Grader
from phfcli.core.models.description import load_config
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.models.trial import check_computation
from phfcli.core.rollouts.single import check_sampling
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.contexts import Context, check_differs, columns_in
from phfcli.core.runs.folder import saved_config
from phfcli.core.runs.problems import Curriculum, SequenceLengths, check_rewards, load_problems
from phfcli.core.runs.targets import find_target
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.training.rollouts import rewards_of
from phfcli.core.types import Completion, Problem, Request, Sampling

REFERENCE, OTHER = "reference", "other-reference"  # information needs both, so they are always measured


@dataclass(frozen=True)
class Experiment:
    """A loaded model, the problems and contexts of a probe, and the number of samples of each problem and prompt."""

    target: str
    config: TrainConfig
    model: LanguageModel
    prompts: Prompts
    problems: Sequence[Problem]
    contexts: Sequence[Context]
    samples: int
    warnings: Sequence[str] = ()

    @property
    def sampling(self) -> Sampling:
        return self.config.rollout.sampling

    @property
    def temperature(self) -> float:
        """The temperature of the distributions that are compared, as in training."""
        return self.config.divergence.temperature or self.config.rollout.temperature

    @property
    def cost(self) -> dict[str, int]:
        """The largest cost: completions, their tokens, and forward passes."""
        count, longest = len(self.problems) * self.samples, self.config.rollout.max_new_tokens
        completions = count * (1 + len(self.contexts))
        return {
            "completions": completions,
            "tokens": completions * longest,
            "passes": count * (1 + len(self.contexts)),
        }

    def cost_sentence(self) -> str:
        cost = self.cost
        return (
            f"cost: {cost['completions']:,} completions of at most {self.config.rollout.max_new_tokens:,} tokens "
            f"({len(self.problems)} problems x {self.samples} x plain and {len(self.contexts)} contexts), and "
            f"{cost['passes']:,} forward passes over one of them"
        )


def build_experiment(
    target: str, typed: list[Source], contexts: Sequence[str], problems: int, samples: int
) -> Experiment:
    """Loads the model, the problems and the contexts of a probe.

    Args:
        target: a run, a checkpoint, an adapter or a model.
        typed: the sources of settings, over those of a run.
        contexts: values of teacher.context to measure; that of the settings, the reference and the control are added.
        problems: the number of problems.
        samples: the number of completions of each problem and prompt.

    Raises:
        UserError: a model, data or a context that cannot be used.
    """
    resolved = find_target(target)
    run_settings = [saved_config(resolved.run)] if resolved.run else []
    same_model = {"kind": "ema", "model": None}  # the model is its own teacher, even if the run had an external one
    sources = [
        *run_settings,
        option_source("MODEL", "model", resolved.model),
        option_source("MODEL", "teacher", same_model),
        *typed,
    ]
    config = resolve_train(sources)
    names = list(dict.fromkeys((REFERENCE, config.teacher.context, *contexts, OTHER)))
    for name in names:  # validates each as the setting teacher.context
        resolve_train([*sources, option_source("contexts", "teacher.context", name)])
    load_config(config.model)  # so that a missing model is reported before missing data
    table = load_problems(config, further=tuple(chain.from_iterable(map(columns_in, names))))
    all_contexts = [Context(name, table, config.seed) for name in names]
    model = load_model(config, resolved.adapter)
    check_computation(model)
    check_sampling(model)
    read = model.description
    prompts = build_prompts(read.tokenizer, config.prompt, read.eos_ids, read.vocabulary)
    chosen = _fitting(config, prompts, table, all_contexts, problems, model.description.context)
    for context in all_contexts:
        check_differs(context, prompts)
    warnings = [*check_rewards(chosen, config.data), *prompts.warnings()]
    if len(chosen) < problems:
        warnings.append(f"{config.data}: only {len(chosen)} of the {problems} requested problems fit")
    return Experiment(target, config, model, prompts, chosen, all_contexts, samples, warnings)


def _fitting(
    config: TrainConfig,
    prompts: Prompts,
    table: Sequence[Problem],
    contexts: Sequence[Context],
    count: int,
    limit: int,
) -> list[Problem]:
    """The first problems in the seed's order whose sequences fit into the model's context under every context."""
    lengths = [SequenceLengths(prompts, True, config.rollout.max_new_tokens, context=context) for context in contexts]
    order = Curriculum(table, len(table), config.seed).batch(1)
    chosen: list[Problem] = []
    for problem in order:
        if len(chosen) == count:
            break
        if all(measured.length(problem) <= limit for measured in lengths):
            chosen.append(problem)
    if not chosen:
        raise UserError(
            f"{config.data}: no problem fits into the model's context of {limit} tokens with a rollout of "
            f"{config.rollout.max_new_tokens}; lower rollout.max_new_tokens"
        )
    return chosen


@dataclass(frozen=True)
class Answer:
    """A completion of a problem, and whether it is right."""

    problem: int  # its index in the experiment
    number: int  # of the sample
    prompt: tuple[int, ...]
    completion: Completion
    text: str
    right: bool


Tick = Callable[[], None]  # called for each completion


def plain_answers(experiment: Experiment, grader: Grader, tick: Tick) -> list[Answer]:
    """The student's own rollouts: `samples` of each problem."""
    prompts = [experiment.prompts.student(problem.problem) for problem in experiment.problems]
    return _draw(experiment, grader, [(problem, n, prompts[problem]) for problem, n in _all_samples(experiment)], tick)


def privileged_answers(
    experiment: Experiment, grader: Grader, prompts: Sequence[list[int] | None], tick: Tick
) -> list[Answer]:
    """Completions after the privileged prompts of the student's rollouts, without those whose prompt is None.

    Each uses the random seed of the plain completion, so that a difference comes from the prompt alone.
    """
    samples = zip(_all_samples(experiment), prompts, strict=True)
    tasks = [(problem, n, prompt) for (problem, n), prompt in samples if prompt is not None]
    return _draw(experiment, grader, tasks, tick)


def privileged_prompts(experiment: Experiment, context: Context, plain: Sequence[Answer]) -> list[list[int] | None]:
    """The teacher's prompt for each rollout; None if the context is a sibling and no sibling is right."""
    prompts: list[list[int] | None] = []
    for answer in plain:
        problem = experiment.problems[answer.problem]
        shown = _sibling(answer, plain) if context.drawn else context.text(problem)
        prompts.append(None if shown is None else context.prompt_ids(experiment.prompts, problem, shown))
    return prompts


def scores(experiment: Experiment, answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Problem id -> 1 for each right answer and 0 for each other; without problems that have no answer."""
    by_problem: dict[str, list[float]] = {}
    for answer in answers:
        by_problem.setdefault(experiment.problems[answer.problem].id, []).append(float(answer.right))
    return by_problem


def _all_samples(experiment: Experiment) -> list[tuple[int, int]]:
    """(problem, number) of every sample."""
    return [(problem, n) for problem in range(len(experiment.problems)) for n in range(experiment.samples)]


def _draw(
    experiment: Experiment, grader: Grader, tasks: Sequence[tuple[int, int, list[int]]], tick: Tick
) -> list[Answer]:
    """Draws and grades a completion for each (problem, number, prompt)."""
    requests = [
        Request(tuple(prompt), derive_seed(experiment.config.seed, "probe", problem, number))
        for problem, number, prompt in tasks
    ]
    drawn = {}
    for index, completion in TransformersEngine(experiment.model).sample(requests, experiment.sampling, logprobs=False):
        drawn[index] = completion
        tick()
    completions = [drawn[index] for index in range(len(requests))]
    texts = [experiment.model.description.text(completion.ids) for completion in completions]
    problems = [experiment.problems[problem] for problem, _, _ in tasks]
    rewards = rewards_of(grader, experiment.model.description, problems, completions)
    return [
        Answer(problem, number, request.prompt_ids, completion, text, right=reward > 0)
        for (problem, number, _), request, completion, text, reward in zip(
            tasks, requests, completions, texts, rewards, strict=True
        )
    ]


def _sibling(answer: Answer, plain: Sequence[Answer]) -> str | None:
    """The text of another rollout of the same problem that was right."""
    others = (a for a in plain if a.problem == answer.problem and a.number != answer.number and a.right)
    return next((other.text for other in others), None)
