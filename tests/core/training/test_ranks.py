"""How work is shared out over ranks; what they tell each other is tested on real processes in test_train_ranks.py."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.errors import UserError
from phfcli.core.training.ranks import ALONE, Ranks, _buckets, joined


@given(st.integers(0, 100), st.integers(1, 12))
def test_every_thing_is_one_ranks_and_in_order(count: int, size: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_changes() -> None:
    tensors = [torch.ones(2), torch.tensor(3)]
    ALONE.sum_(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[1, 1], 3]
    assert ALONE.total({"tokens": 7}) == {"tokens": 7}
    assert ALONE.gather("ab") == ["a", "b"]
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]
    with pytest.raises(UserError, match="as it was"), ALONE.together():
        raise UserError("as it was")


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_processes_cannot_share_a_named_device(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes cannot share"), joined(device):
        pass


def test_more_processes_than_gpus_are_refused_by_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "3"),
        ("LOCAL_WORLD_SIZE", "3"),
        ("LOCAL_RANK", "0"),
        ("CUDA_VISIBLE_DEVICES", "4,5"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="3 processes on this machine and 2 GPUs"):
        joined("auto").__enter__()


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([torch.float32, torch.int64])), max_size=12))
def test_buckets_hold_every_tensor_once_and_of_one_dtype(kinds: list[tuple[int, torch.dtype]]) -> None:
    tensors = [torch.zeros(size, dtype=dtype) for size, dtype in kinds]
    with patch("phfcli.core.training.ranks._BUCKET_BYTES", 40):
        buckets = list(_buckets(tensors))
    assert [id(tensor) for bucket in buckets for tensor in bucket] == list(map(id, tensors))
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= 40
