"""Sizes as configs of many forms state them."""

import pytest
from families import config_of, family

from phfcli.core.models.description import UNBOUNDED, cache_row_bytes, context_of, depth_of, width_of


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gemma3", "qwen3_5", "falcon"])
def test_depth_width_and_context(kind: str) -> None:
    config = config_of(family(kind))
    assert (depth_of(config), width_of(config)) == (4, 32)
    assert context_of(config) == 512


def test_a_state_space_model_has_no_longest_sequence() -> None:
    config = config_of(family("mamba2"))
    del config.max_position_embeddings
    assert context_of(config) == UNBOUNDED


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("qwen3", 4 * 2 * 2 * 8),  # layers, keys and values, heads, head size
        ("qwen3_5", 1 * 2 * 2 * 8),  # one of four blocks attends
        ("lfm2", 1 * 2 * 2 * 8),
        ("deepseek_v3", 4 * 4 * (8 + 8 + 8)),
    ],
)
def test_what_a_cache_keeps_of_each_token(kind: str, numbers: int) -> None:
    assert cache_row_bytes(config_of(family(kind)), itemsize=2) == 2 * numbers
