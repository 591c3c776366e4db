"""The names that other trainers give to options and settings, each answered with the setting of this program."""

from phfcli.core.settings import UnknownSettingError

_OURS = {
    "--learning-rate": "optim.lr",
    "--lr": "optim.lr",
    "--max-steps": "steps",
    "--num-steps": "steps",
    "--total-training-steps": "steps",
    "--num-train-epochs": "steps, which counts updates",
    "--epochs": "steps, which counts updates",
    "--train-batch-size": "batch_size",
    "--per-device-train-batch-size": "micro_batch_size; batch_size is that of all processes together",
    "--gradient-accumulation-steps": "batch_size, of which micro_batch_size are computed at once",
    "--lora-r": "lora.r",
    "--lora-rank": "lora.r",
    "--lora-alpha": "lora.alpha",
    "--dataset": "data",
    "--dataset-name": "data",
    "--model-name-or-path": "model",
    "--num-generations": "grpo.group_size for grpo and oisd, rollout.per_problem for other objectives",
    "--temperature": "rollout.temperature of a training",
    "--max-completion-length": "rollout.max_new_tokens",
    "--max-tokens": "max_new_tokens of an evaluation, rollout.max_new_tokens of a training",
    "--save-steps": "checkpoint_every",
    "--save-total-limit": "keep",
    "--eval-steps": "evaluation.every",
    "--output": "output_dir",
    "--top-p": "top_p of an evaluation, rollout.top_p of a training",
    "--top-k": "top_k of an evaluation, rollout.top_k of a training",
    "--beta": "divergence.beta; the weight of a KL to the base is base_kl",
    "--kl-coef": "base_kl",
    "--warmup-steps": "optim.warmup_steps",
    "--weight-decay": "optim.weight_decay",
    "--max-grad-norm": "optim.max_grad_norm",
    "--num-samples": "n",
    "--benchmark": "bench",
    "--tasks": "bench",
    "--gpus": "devices of an evaluation; `phf train --processes N` trains on N GPUs",
    "--collect": "`phf collect MODEL -o FLOWS`, whose file phf diagnose reads",
    # verl's, which are dotted
    "--actor.optim.lr": "optim.lr",
    "--actor.grad-clip": "optim.max_grad_norm",
    "--actor.kl-loss-coef": "base_kl",
    "--actor.ppo-micro-batch-size-per-gpu": "micro_batch_size",
    "--rollout.n": "grpo.group_size for grpo and oisd, rollout.per_problem for other objectives",
    "--model.path": "model",
    "--model.lora-rank": "lora.r",
    "--model.lora-alpha": "lora.alpha",
    "--data.train-files": "data",
    "--data.train-batch-size": "batch_size",
    "--data.max-response-length": "rollout.max_new_tokens",
    "--trainer.total-training-steps": "steps",
    "--trainer.save-freq": "checkpoint_every",
    "--trainer.test-freq": "evaluation.every",
    "--trainer.logger": "report_to",
}
_VERL = "--actor-rollout-ref."


def in_our_words(error: Exception) -> str:
    """The error's message; for a setting of another trainer it names the setting of this program."""
    if isinstance(error, UnknownSettingError):
        for key in error.keys:
            if ours := answer(f"--{key}"):
                return f"{error.where}: unknown key; {ours}"
    return str(error)


def answer(option: str) -> str | None:
    """Which setting of this program stands for another trainer's option or dotted setting; None for an unknown one."""
    name = option.lower().replace("_", "-")
    ours = _OURS.get(f"--{name.removeprefix(_VERL)}" if name.startswith(_VERL) else name)
    return None if ours is None else f"here it is {ours}"
