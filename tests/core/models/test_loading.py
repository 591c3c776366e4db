"""A model as it is loaded: what trains is the policy that draws."""

from pathlib import Path

import pytest
import torch
from families import build, family, write

from phfcli.core.config import ModelSettings
from phfcli.core.models.loading import load_model


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_pass_in_training_is_the_pass_that_draws(kind: str, attention: str, tmp_path: Path) -> None:
    """GPT-2 and OPT come with a dropout of 0.1, in modules and in the functions that compute attention."""
    ids = torch.arange(1, 9)[None]
    if kind != "qwen3":
        noisy = build(family(kind)).train()
        assert not torch.equal(noisy(input_ids=ids).logits, noisy(input_ids=ids).logits)
    base = write(family(kind), tmp_path)
    model = load_model(ModelSettings(model=str(base), device="cpu", attention=attention)).causal  # type: ignore[arg-type]
    drawn = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(model.train()(input_ids=ids).logits, drawn, rtol=1e-6, atol=1e-6)
