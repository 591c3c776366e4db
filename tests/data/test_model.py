"""The embedded model loads, and is the base that the manifest describes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic import reference_solution, work
from measure import complete, success_rates
from problem_sets import draw_sets

from phfcli.core.models.prompts import Prompts


@pytest.fixture(scope="module")
def model(data_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(data_dir / "model")


def test_the_model_is_the_one_described(model: Any, tokenizer: Any, manifest: dict[str, Any]) -> None:
    assert type(model).__name__ == manifest["model"]["architecture"] == "Qwen3ForCausalLM"
    assert model.num_parameters() == manifest["model"]["parameters"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == len(tokenizer) == manifest["model"]["vocabulary"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_base_leaves_something_to_learn(manifest: dict[str, Any]) -> None:
    base = manifest["base_on_eval"]
    assert 0.40 <= base["average_at_12"] <= 0.60
    assert base["greedy"] <= 0.65  # not only its samples are wrong: what it thinks likeliest is
    assert 0.95 <= base["pass_at_12"] < 1
    assert min(base["privileged_average_at_12"], base["privileged_greedy"]) >= 0.98
    assert base["carry_right_plain"] > base["carry_forgotten_plain"]
    assert base["carry_right_privileged"] >= 0.98


def test_it_solves_what_it_is_shown(model: Any, tokenizer: Any, manifest: dict[str, Any]) -> None:
    chains = draw_sets(manifest["seed"])["eval"][:16]
    prompts = Prompts(tokenizer)
    shown = [prompts.teacher(chain.problem, reference_solution(chain)) for chain in chains]
    answers = [work(chain.start, chain.steps)[-1] for chain in chains]
    completions = complete(model, tokenizer, shown)
    rates = success_rates(completions, answers)
    assert sum(rates) / len(rates) >= 0.9
    assert all(text.count("\\boxed{") == 1 and text.endswith("<|im_end|>") for (text,) in completions)
