"""What a probe looks at: a model, some problems, and its completions, plain and under each context."""

from collections.abc import Sequence
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
from phfcli.core.runs.contexts import Context, columns_in
from phfcli.core.runs.folder import saved_config
from phfcli.core.runs.problems import Curriculum, SequenceLengths, check_rewards, load_problems
from phfcli.core.runs.targets import find_target
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.training.rollouts import rewards_of
from phfcli.core.types import Completion, Problem, Request, Sampling

REFERENCE, OTHER = "reference", "other-reference"  # which the verdict rests on, so they are always looked at


@dataclass(frozen=True)
class Experiment:
    """The model as student and teacher, before any training; `samples` completions of each problem and prompt."""

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
        """Of the distributions that are compared, as in training."""
        return self.config.divergence.temperature or self.config.rollout.temperature

    @property
    def cost(self) -> dict[str, int]:
        """What it takes at most: completions, their tokens, and tokens read in passes."""
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
    """Loads everything that is looked at.

    Raises:
        UserError: for a model, data or a context that cannot be used.
    """
    found = find_target(target)
    own = [saved_config(found.run)] if found.run else []
    itself = {"kind": "ema", "model": None}  # also of a run whose teacher was another model
    sources = [*own, option_source("MODEL", "model", found.model), option_source("MODEL", "teacher", itself), *typed]
    names = list(dict.fromkeys((REFERENCE, *contexts, OTHER)))
    for name in names:  # each is checked as the setting that it is in training
        resolve_train([*sources, option_source("contexts", "teacher.context", name)])
    config = resolve_train(sources)
    load_config(config.model)  # a model that is not there is told before data that is not
    table = load_problems(config, further=tuple(chain.from_iterable(map(columns_in, names))))
    every = [Context(name, table, config.seed) for name in names]
    model = load_model(config, found.adapter)
    check_computation(model)
    check_sampling(model)
    prompts = build_prompts(model.description.tokenizer, config.prompt, model.description.eos_ids)
    chosen = _fitting(config, prompts, table, every, problems, model.description.context)
    warnings = [*check_rewards(chosen, config.data), *prompts.warnings()]
    if len(chosen) < problems:
        warnings.append(f"{config.data}: {len(chosen)} problems that fit, where {problems} were asked for")
    return Experiment(target, config, model, prompts, chosen, every, samples, warnings)


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
        if all(one.length(problem) <= limit for one in lengths):
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

    place: int  # of the problem
    number: int
    prompt: tuple[int, ...]
    completion: Completion
    text: str
    right: bool


def plain_answers(experiment: Experiment, grader: Grader) -> list[Answer]:
    """The student's own rollouts: `samples` of each problem."""
    prompts = [experiment.prompts.student(problem.problem) for problem in experiment.problems]
    return _draw(experiment, grader, [(place, n, prompts[place]) for place, n in _every(experiment)])


def privileged_answers(experiment: Experiment, grader: Grader, prompts: Sequence[list[int] | None]) -> list[Answer]:
    """Completions after the privileged prompt of each of the student's rollouts, where there is one.

    Each draws the random numbers of the plain completion, so that a difference is the prompt's.
    """
    places = zip(_every(experiment), prompts, strict=True)
    return _draw(experiment, grader, [(place, n, prompt) for (place, n), prompt in places if prompt is not None])


def privileged_prompts(experiment: Experiment, context: Context, plain: Sequence[Answer]) -> list[list[int] | None]:
    """What the teacher reads of each rollout; None where no sibling of it is right."""
    prompts: list[list[int] | None] = []
    for answer in plain:
        problem = experiment.problems[answer.place]
        shown = _sibling(answer, plain) if context.drawn else context.text(problem)
        prompts.append(None if shown is None else experiment.prompts.teacher(problem.problem, shown))
    return prompts


def scores(experiment: Experiment, answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Of each problem with answers 1 for a right one and 0 for another."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        found.setdefault(experiment.problems[answer.place].id, []).append(float(answer.right))
    return found


def _every(experiment: Experiment) -> list[tuple[int, int]]:
    return [(place, n) for place in range(len(experiment.problems)) for n in range(experiment.samples)]


def _draw(experiment: Experiment, grader: Grader, asked: Sequence[tuple[int, int, list[int]]]) -> list[Answer]:
    requests = [
        Request(tuple(prompt), derive_seed(experiment.config.seed, "probe", place, number))
        for place, number, prompt in asked
    ]
    drawn = dict(TransformersEngine(experiment.model).sample(requests, experiment.sampling, logprobs=False))
    completions = [drawn[index] for index in range(len(requests))]
    texts = [experiment.model.description.text(completion.ids) for completion in completions]
    problems = [experiment.problems[place] for place, _, _ in asked]
    rewards = rewards_of(grader, experiment.model.description, problems, completions)
    return [
        Answer(place, number, request.prompt_ids, completion, text, right=reward > 0)
        for (place, number, _), request, completion, text, reward in zip(
            asked, requests, completions, texts, rewards, strict=True
        )
    ]


def _sibling(answer: Answer, plain: Sequence[Answer]) -> str | None:
    """The text of another rollout of the same problem that was right."""
    others = (a for a in plain if a.place == answer.place and a.number != answer.number and a.right)
    return next((other.text for other in others), None)
