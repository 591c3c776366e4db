"""AdamW with its moments away: a part of the weights after the other, bitwise AdamW's own result."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from phfcli.core.training import moments
from phfcli.core.training.moments import AwayAdamW


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (40,), (3, 3), (11, 2))]


def test_it_updates_as_adamw_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "PART_BYTES", 200)  # two of them together, and one that is larger alone
    ends = []
    for kind in (torch.optim.AdamW, AwayAdamW):
        trained = weights()
        optimizer = kind(trained, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)
        schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
        for step in range(3):
            for number, p in enumerate(trained):
                p.grad = None if (number, step) == (2, 0) else torch.sin(p.detach() + step)
            optimizer.step()
            schedule.step()
        assert [len(group["params"]) for group in optimizer.param_groups] == [4]
        ends.append([*trained, *(optimizer.state[p][name] for p in trained for name in ("exp_avg", "exp_avg_sq"))])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
