"""A model without its blocks reads states as the whole model does, and refuses files that lack its head."""

from pathlib import Path

import pytest
import torch
from families import family, write
from safetensors.torch import load_file, save_file

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.blockless import load_blockless
from phfcli.core.models.loading import load_model

KINDS = ["qwen3", "llama", "gemma2", "granite", "phi3", "gpt2", "gpt_neox", "qwen3_moe", "qwen3_next", "cohere2", "opt"]


@pytest.mark.parametrize("kind", KINDS)
def test_norm_and_head_are_the_whole_models(kind: str, tmp_path: Path) -> None:
    settings = ModelSettings(model=str(write(family(kind), tmp_path)), device="cpu", attention="eager")
    whole, blockless = load_model(settings), load_blockless(settings)
    assert len(blockless.blocks) == 0
    assert blockless.description.config.to_dict() == whole.description.config.to_dict()
    states = torch.randn(3, 5, whole.head.shape[1], generator=torch.Generator().manual_seed(0))
    read, own = blockless.final_norm(states), whole.final_norm(states)
    torch.testing.assert_close(read, own, rtol=0, atol=0)
    torch.testing.assert_close(blockless.output_head.logits(read), whole.output_head.logits(own), rtol=0, atol=0)
    assert not any(p.requires_grad for p in blockless.causal.parameters())


def test_files_without_the_norm_are_refused(tmp_path: Path) -> None:
    folder = write(family("qwen3"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for model\.norm\.weight; its files do not belong together"):
        load_blockless(ModelSettings(model=str(folder), device="cpu"))


def test_nothing_is_reported_of_the_blocks(capfd: pytest.CaptureFixture[str]) -> None:
    load_blockless(ModelSettings(device="cpu"))
    assert "UNEXPECTED" not in capfd.readouterr().err
