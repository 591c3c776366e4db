"""What a probe looks at: a model, some problems, and the contexts that its teacher is shown of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.architecture.self_check import check_computation
from phfcli.core.models.description import load_config
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.rollouts.sampling_check import check_sampling
from phfcli.core.runs.checkpoint_choice import find_target
from phfcli.core.runs.contexts import Context, columns_in
from phfcli.core.runs.run_folder import saved_config
from phfcli.core.runs.training_data import Curriculum, SequenceLengths, check_rewards, load_problems
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.types import Problem, Sampling

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
        drawn = self.config.rollout
        return Sampling(drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens)

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
        resolve_train([*sources, option_source("--contexts", "teacher.context", name)])
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
            f"{config.rollout.max_new_tokens}; shorten it with --set rollout.max_new_tokens=N"
        )
    return chosen
