"""Rows that move, and the attention of one new token."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from phfcli.core.models.packing import pack
from phfcli.core.rollouts.transformers import KeyValueCache, ReadPrompts, next_tokens

BLOCK = nn.Identity()
CPU = torch.device("cpu")


def heads(count: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(1, count, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_prompt_is_written_to_each_of_its_rows() -> None:
    cache = KeyValueCache(3, 6)
    key, value = heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [4, 5]], CPU), [[0, 2], [1]])(BLOCK, heads(4, 5, 3), key, value, None, 0.0)
    keys, values = cache.layers[BLOCK]
    for row in (0, 2):
        assert torch.equal(keys[row, :, :3], key[0, :, :3])
        assert torch.equal(values[row, :, :3], value[0, :, :3])
    assert torch.equal(keys[1, :, :2], key[0, :, 3:])


def test_a_prompt_that_begins_as_another_is_written_whole() -> None:
    cache = KeyValueCache(2, 6)
    key, value = heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [1, 2, 4, 5]], CPU), [[0], [1]])(BLOCK, heads(4, 5, 3), key, value, None, 0.0)
    keys, _ = cache.layers[BLOCK]
    assert torch.equal(keys[0, :, :3], key[0, :, :3])
    assert torch.equal(keys[1, :, :4], key[0, :, [0, 1, 3, 4]])


def test_a_new_token_attends_to_its_row_and_to_itself() -> None:
    cache = KeyValueCache(2, 6)
    key, value = heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [4, 5]], CPU), [[0], [1]])(BLOCK, heads(4, 5, 3), key, value, None, 0.0)
    query, new_key, new_value = heads(4, 2, 4), heads(2, 2, 5), heads(2, 2, 6)
    out = next_tokens(cache, [3, 2], CPU)(BLOCK, query, new_key, new_value, None, 0.0)
    for row, own in ((0, slice(0, 3)), (1, slice(3, 5))):
        k = torch.cat([key[:, :, own], new_key[:, :, row : row + 1]], dim=2)
        v = torch.cat([value[:, :, own], new_value[:, :, row : row + 1]], dim=2)
        expected = scaled_dot_product_attention(query[:, :, row : row + 1], k, v, enable_gqa=True)
        torch.testing.assert_close(out[0, row], expected[0, :, 0])


def test_rows_move() -> None:
    cache = KeyValueCache(3, 4)
    cache.move([2], [0], 3)  # nothing is held yet
    keys, values = cache.of(BLOCK, heads(2, 1, 1), heads(2, 1, 2).float())
    assert (keys.dtype, values.dtype) == (torch.float64, torch.float32)
    keys.copy_(torch.arange(3.0)[:, None, None, None])
    cache.move([2], [0], 3)
    assert keys[0, 0, :, 0].tolist() == [2, 2, 2, 0]
    assert not values.any()
