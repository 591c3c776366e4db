"""Quantised bases: refused in one line where they cannot be had, counted in the plan where they can."""

import sys
from pathlib import Path

import pytest
import torch
from families import family, write

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_config
from phfcli.core.models.loading import load_model
from phfcli.core.models.weights import quantized_loading
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import check_base

EMBEDDED = load_config("embedded")


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_without_bitsandbytes_it_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what an import finds where it is not installed
    with pytest.raises(UserError, match=f"^quantization: {name} needs bitsandbytes, which is not installed"):
        load_model(ModelSettings(quantization=name, device="cpu"))


def test_nothing_is_asked_for_a_plain_base() -> None:
    assert quantized_loading("none", torch.float32, torch.device("cpu")) == {}


@pytest.mark.parametrize("other", ["tuning=full", "sharding=fsdp", "rollout.engine=vllm"])
def test_what_does_not_go_with_it_is_refused(other: str) -> None:
    with pytest.raises(UserError, match=r"^quantization: nf4 "):
        check_base(resolve_train(set_sources(["quantization=nf4", other])), EMBEDDED)
    check_base(resolve_train(set_sources([other])), EMBEDDED)
    check_base(resolve_train(set_sources(["quantization=nf4"])), EMBEDDED)


def test_a_model_that_comes_quantised_does_not_train_as_a_whole(tmp_path: Path) -> None:
    arch = load_config(str(write(family("qwen3"), tmp_path)))
    arch.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(UserError, match=r"^quantization: bitsandbytes needs a frozen base"):
        check_base(resolve_train(set_sources(["tuning=full"])), arch)


def test_four_bits_let_gradients_through_after_a_pass_without(tmp_path: Path) -> None:
    """bitsandbytes packs the weights for a CPU's inference, and a packed product has no gradient."""
    base = write(family("qwen3"), tmp_path, hidden_size=64, intermediate_size=128)  # whole blocks of 64 numbers
    model = load_model(ModelSettings(model=str(base), quantization="nf4", device="cpu"))
    ids = torch.arange(5)[None]
    with torch.no_grad():
        model.causal(input_ids=ids)
    embedded = model.causal.get_input_embeddings()(ids).detach().requires_grad_()
    hidden = model.causal(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    [gradient] = torch.autograd.grad(hidden[1].sum() - hidden[0].sum(), embedded)  # of what one block adds
    assert gradient.abs().max() > 0
