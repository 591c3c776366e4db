"""Where a model's layers are, which of them are chosen, and how large they are."""

import re
from fractions import Fraction
from math import floor

import pytest
from families import config_of, family
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.config import LayerChoice
from phfcli.core.errors import UserError
from phfcli.core.models.architecture import check_layers, pair_layers, pick_layers
from phfcli.core.models.description import UNBOUNDED, cache_row_bytes, context_of, depth_of, width_of


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ("last", (5,)),
        ("all", (1, 2, 3, 4, 5)),
        (None, (1, 2, 3, 4, 5)),
        ("even", (2, 4)),
        ("odd", (1, 3, 5)),
        ((4, 2), (2, 4)),
        (("1%", "30%", "100%"), (1, 2, 5)),
        ((), ()),
    ],
)
def test_names(choice: LayerChoice | None, layers: tuple[int, ...]) -> None:
    assert pick_layers(choice, 5) == layers


@pytest.mark.parametrize(
    ("choice", "message"), [((1, 6), "x: 6 is beyond the model's 5"), ((), "x: () is none of the model's 5")]
)
def test_layers_that_are_not_there_are_refused(choice: LayerChoice, message: str) -> None:
    check_layers("x", "even", 5)
    with pytest.raises(UserError, match=re.escape(message)):
        check_layers("x", choice, 5)


def test_pairs_by_hand() -> None:
    assert pair_layers((1, 2, 3, 4), 4, 8) == (2, 4, 6, 8)
    assert pair_layers((1, 2, 3), 3, 4) == (1, 3, 4)  # 1.33, 2.67, 4
    assert pair_layers((1, 2, 3, 4), 4, 2) == (1, 1, 2, 2)  # 0.5 and 1.5 go up
    assert pair_layers((1,), 28, 4) == (1,)


@given(depth=st.integers(1, 80), other=st.integers(1, 80))
def test_pairs_are_proportional(depth: int, other: int) -> None:
    pairs = pair_layers(range(1, depth + 1), depth, other)
    assert list(pairs) == [
        max(1, floor(Fraction(layer * other, depth) + Fraction(1, 2))) for layer in range(1, depth + 1)
    ]
    assert pairs[-1] == other
    assert list(pairs) == sorted(pairs)
    if depth == other:
        assert list(pairs) == list(range(1, depth + 1))


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
