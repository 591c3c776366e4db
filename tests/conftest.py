"""What several test modules share: a small random model and the embedded one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from phfcli.core.cards import load_card
from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models import LanguageModel, add_lora, load_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are fastest on one thread, and its sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def random_model() -> Callable[..., LanguageModel]:
    """A Qwen3 of three small blocks with random weights, in float64 so that orders of summation hardly matter."""

    def build(**changes: Any) -> LanguageModel:
        torch.manual_seed(0)
        embedded = load_card("embedded")
        sizes: dict[str, Any] = {
            "vocab_size": len(embedded.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "initializer_range": 0.3,
        }
        causal = Qwen3ForCausalLM(Qwen3Config(**sizes | changes)).double().eval()
        causal.generation_config = GenerationConfig(eos_token_id=sorted(embedded.eos_ids), pad_token_id=embedded.pad_id)
        return LanguageModel(causal, causal, replace(embedded, config=causal.config))

    return build


@pytest.fixture
def student(random_model: Callable[..., LanguageModel]) -> LanguageModel:
    """The random model with an adapter that is not at its initial zero."""
    model = add_lora(random_model(), LoraSettings(r=4, alpha=8), seed=1)
    with torch.no_grad():
        for p in model.trainable().values():
            p.copy_(0.1 * torch.randn_like(p))
    return model


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    return load_model(ModelSettings(device="cpu"))


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    """Four problems of the embedded kind, as a user's own file."""
    rows = [
        {"problem": f"Start with {n}, add 8.", "solution": f"{n}+8={n + 8}. \\boxed{{{n + 8}}}", "answer": str(n + 8)}
        for n in (1, 12, 23, 34)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
