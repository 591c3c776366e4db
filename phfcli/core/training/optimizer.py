"""The optimizer and its learning-rate schedule."""

import torch
from transformers import get_scheduler

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.runs.training_data import Curriculum


def build_optimizer(
    config: TrainConfig, model: LanguageModel, curriculum: Curriculum
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a cosine whose horizon is its own setting, apart from the last step, which must not lie beyond it."""
    optim = config.optim
    optimizer = torch.optim.AdamW(
        model.trainable().values(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    horizon = optim.horizon_steps or round(optim.horizon_epochs * curriculum.steps_per_epoch)
    if horizon < config.steps:
        raise UserError(
            f"steps: {config.steps} is beyond the schedule's horizon of {horizon}; raise optim.horizon_steps"
        )
    return optimizer, get_scheduler("cosine", optimizer, optim.warmup_steps, horizon)
