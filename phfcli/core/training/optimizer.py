"""The optimizer and its learning-rate schedule: how they are built, and how a resumed run goes on with them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from phfcli.core.config import OptimSettings, TrainConfig
from phfcli.core.errors import UserError


def build_optimizer(settings: OptimSettings, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW on the weights that train."""
    return torch.optim.AdamW(weights, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def build_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: float) -> LambdaLR:
    """A cosine with warm-up that falls to zero at its horizon.

    The horizon is a setting of its own: the published runs stop at step 100 of a schedule made for 30 epochs. Where
    the problems are so few that the last step lies beyond these epochs, it is the horizon.

    Raises:
        UserError: for a last step that lies beyond a horizon given in steps.
    """
    optim = config.optim
    horizon = optim.horizon_steps or max(round(optim.horizon_epochs * steps_per_epoch), config.steps)
    if horizon < config.steps:
        raise UserError(
            f"steps: {config.steps} is beyond optim.horizon_steps, {horizon}, at which the learning rate is zero; "
            "raise it, or lower steps"
        )
    schedule: LambdaLR = get_scheduler("cosine", optimizer, optim.warmup_steps, horizon)
    return schedule


def restore_schedule(schedule: LambdaLR, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Sets the schedule to a saved step, and the optimizer to the rate of that step under the present settings.

    The schedule alone would set the optimizer's rate only after the next step.
    """
    schedule.load_state_dict({key: value for key, value in state.items() if key != "base_lrs"})
    rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    schedule._last_lr = [base * share(schedule.last_epoch) for base, share in rates]
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
