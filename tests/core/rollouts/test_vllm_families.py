"""vLLM on models of other families: it draws under the adapter and heads that phf trains, to the last digits.

Two programs compute the same model from the same files, so this also finds what transformers leaves out: Gemma 2's cap
on attention logits was found here. Phi-3 has one product for what others have three of, and adapters on that.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from families import family, write

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import VllmEngine
from phfcli.core.types import Request, Sampling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.skipif(
        find_spec("vllm") is None and not os.environ.get("PHF_REQUIRE_VLLM"), reason="vLLM is not installed"
    ),
]

# its kernels on the CPU want a head of 32 numbers at least
SIZES = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
REQUESTS = [Request(tuple(range(5, 25)), 1), Request(tuple(range(30, 70)), 2)]


@pytest.mark.parametrize("kind", ["phi3", "gemma2"])
def test_it_draws_what_the_model_predicts(kind: str, tmp_path: Path) -> None:
    head = {"head_dim": 32} if "head_dim" in family(kind).changes else {}
    settings = ModelSettings(model=str(write(family(kind), tmp_path, **SIZES, **head)), device="cpu")
    model = add_lora(load_model(settings), LoraSettings(r=4, alpha=8), seed=0)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    engine = VllmEngine(Serving(settings, length=256), rank=4, training=True)
    try:
        engine.update(model)
        drawn = dict(engine.sample(REQUESTS, Sampling(max_new_tokens=12)))
    finally:
        engine.close()
    for index, completion in drawn.items():
        prompt = REQUESTS[index].prompt_ids
        with torch.no_grad():
            logits = model.causal(input_ids=torch.tensor([[*prompt, *completion.ids]]), use_cache=False).logits
        own = logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), own, rtol=0, atol=1e-4)
