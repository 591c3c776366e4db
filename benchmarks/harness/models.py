"""A model of a given shape, and rollouts to learn from."""

from pathlib import Path
from typing import Any

import torch

Rollout = dict[str, list[int]]  # student_prompt, teacher_prompt, completion


def make_model(
    folder: Path,
    layers: int = 8,
    width: int = 512,
    vocabulary: int = 151_936,
    dtype: str = "float32",
    context: int = 4096,
    head_dim: int = 64,
) -> Path:
    """A Qwen3 of that shape with random weights, as a folder that any program can load."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from phfcli.core.models.description import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // head_dim,
        num_key_value_heads=max(1, width // head_dim // 2),
        head_dim=head_dim,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_family(folder: Path, kind: str, **sizes: Any) -> Path:
    """A model of another `model_type` with random float32 weights; sizes not given are the defaults."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from phfcli.core.models.description import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rollouts(count: int, student: int, teacher: int, completion: int, vocabulary: int) -> list[Rollout]:
    """Random token ids in sequences of those lengths; a `completion` of each sample is as long as the others'."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(10, vocabulary, (length,), generator=generator).tolist()

    lengths = {"student_prompt": student, "teacher_prompt": teacher, "completion": completion}
    return [{name: tokens(length) for name, length in lengths.items()} for _ in range(count)]
