"""Our models attend by a function of their own name; transformers' sdpa stays as it is for every other model."""

from pathlib import Path

import torch
from families import build, family, write
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.config import ModelSettings
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import PACKING_SDPA, LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.trial import can_pack

IDS = torch.arange(12)[None] % 7 + 3


@torch.no_grad()
def logits(causal: PreTrainedModel) -> torch.Tensor:
    out: torch.Tensor = causal.eval()(input_ids=IDS, use_cache=False).logits
    return out


def test_another_model_of_the_process_keeps_the_stock_sdpa(tmp_path: Path) -> None:
    folder = write(family("qwen3"), tmp_path)
    before = logits(AutoModelForCausalLM.from_pretrained(folder))
    ours = load_model(ModelSettings(model=str(folder), device="cpu"))
    assert can_pack(ours)
    assert ours.causal.config._attn_implementation == PACKING_SDPA
    assert ours.attention == "sdpa"  # what records and messages say
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert stock.config._attn_implementation == "sdpa"
    assert torch.equal(logits(stock), before)
    assert torch.equal(logits(ours.causal), before)


def test_the_name_does_not_reach_a_saved_model(tmp_path: Path) -> None:
    ours = load_model(ModelSettings(model=str(write(family("qwen3"), tmp_path)), device="cpu"))
    assert can_pack(ours)
    ours.causal.save_pretrained(tmp_path / "saved")
    assert PACKING_SDPA not in (tmp_path / "saved/config.json").read_text(encoding="utf-8")


def test_a_model_that_cannot_be_packed_keeps_the_stock_sdpa() -> None:
    causal = build(family("lfm2"))
    convolving = LanguageModel(causal, causal, load_description("embedded"))
    assert not can_pack(convolving)
    assert causal.config._attn_implementation == "sdpa"
