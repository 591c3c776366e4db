"""How a model is prompted and sampled in an evaluation."""

from phfcli.core.config import EvalConfig, PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benches.benchmarks import Benchmark
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.prompts import Prompts
from phfcli.core.runs.checkpoint_choice import Target
from phfcli.core.runs.run_folder import recorded_config
from phfcli.core.types import Sampling

PUBLISHED_NEW_TOKENS = 38_912


def prompt_settings(config: EvalConfig, target: Target) -> PromptSettings:
    """The prompts to evaluate with: those that the run was trained with, unless others are asked for."""
    if config.prompt == PromptSettings() and target.run is not None:
        return recorded_config(target.run).prompt
    return config.prompt


def sampling_of(config: EvalConfig, description: ModelDescription, prompts: Prompts, bench: Benchmark) -> Sampling:
    """The sampling settings of a benchmark. Raises UserError if prompt and new tokens exceed the model's context."""
    longest = _longest_prompt(prompts, bench)
    room = description.context - longest
    wanted = config.max_new_tokens or min(PUBLISHED_NEW_TOKENS, room)
    if not 0 < wanted <= room:
        raise UserError(
            f"--max-new-tokens: the longest prompt of {bench.name} takes {longest} tokens, which leaves "
            f"{max(room, 0)} of the model's context of {description.context}"
        )
    return Sampling(config.temperature, config.top_p, config.top_k, wanted)


def longest_sequence(config: EvalConfig, description: ModelDescription, prompts: Prompts, bench: Benchmark) -> int:
    """Tokens of a benchmark's longest prompt and of a completion."""
    return _longest_prompt(prompts, bench) + sampling_of(config, description, prompts, bench).max_new_tokens


def _longest_prompt(prompts: Prompts, bench: Benchmark) -> int:
    return max(len(prompts.student(p.problem)) for p in bench.problems)
