"""Other trainers' names of options and settings, answered with ours, for the command line and for Python."""

from phfcli.core.settings import UnknownSettingError

_OURS = {
    "--learning-rate": "--set optim.lr=RATE of train",
    "--lr": "--set optim.lr=RATE of train",
    "--max-steps": "--steps",
    "--num-steps": "--steps",
    "--total-training-steps": "--steps",
    "--num-train-epochs": "--steps, which counts updates",
    "--epochs": "--steps, which counts updates",
    "--train-batch-size": "--batch-size",
    "--per-device-train-batch-size": "--set micro_batch_size=N; --batch-size is that of all processes together",
    "--gradient-accumulation-steps": "--batch-size, of which --set micro_batch_size=N are computed at once",
    "--lora-r": "--set lora.r=N",
    "--lora-rank": "--set lora.r=N",
    "--lora-alpha": "--set lora.alpha=N",
    "--dataset": "--data",
    "--dataset-name": "--data",
    "--model-name-or-path": "--model",
    "--num-generations": "--set grpo.group_size=N of grpo and oisd, --set rollout.per_problem=N of the others",
    "--temperature": "--set rollout.temperature=T of train",
    "--max-completion-length": "--set rollout.max_new_tokens=N",
    "--max-tokens": "--max-new-tokens of eval, --set rollout.max_new_tokens=N of train",
    "--save-steps": "--checkpoint-every",
    "--save-total-limit": "--keep",
    "--eval-steps": "--eval-every",
    "--output": "--output-dir",
    "--top-p": "--set top_p=P of eval, --set rollout.top_p=P of train",
    "--top-k": "--set top_k=K of eval, --set rollout.top_k=K of train",
    "--beta": "--set divergence.beta=B; the weight of a KL to the base is --set base_kl=W",
    "--kl-coef": "--set base_kl=W",
    "--warmup-steps": "--set optim.warmup_steps=N",
    "--weight-decay": "--set optim.weight_decay=W",
    "--max-grad-norm": "--set optim.max_grad_norm=X",
    "--num-samples": "--n",
    "--benchmark": "--bench",
    "--tasks": "--bench",
    "--gpus": "--devices of eval, --processes of train",
    "--collect": "phf collect MODEL -o FLOWS, whose file phf diagnose reads",
    # verl's, which are dotted
    "--actor.optim.lr": "--set optim.lr=RATE",
    "--actor.grad-clip": "--set optim.max_grad_norm=X",
    "--actor.kl-loss-coef": "--set base_kl=W",
    "--actor.ppo-micro-batch-size-per-gpu": "--set micro_batch_size=N",
    "--rollout.n": "--set grpo.group_size=N of grpo and oisd, --set rollout.per_problem=N of the others",
    "--model.path": "--model",
    "--model.lora-rank": "--set lora.r=N",
    "--model.lora-alpha": "--set lora.alpha=N",
    "--data.train-files": "--data",
    "--data.train-batch-size": "--batch-size",
    "--data.max-response-length": "--set rollout.max_new_tokens=N",
    "--trainer.total-training-steps": "--steps",
    "--trainer.save-freq": "--checkpoint-every",
    "--trainer.test-freq": "--eval-every",
    "--trainer.logger": "--report-to",
}
_VERL = "--actor-rollout-ref."


def in_our_words(error: Exception) -> str:
    """The error's message; where it is about a setting of another trainer, with what we call that."""
    if isinstance(error, UnknownSettingError):
        for key in error.keys:
            if ours := answer(f"--{key}"):
                return f"{error.where}: unknown key; {ours}"
    return str(error)


def answer(option: str) -> str | None:
    """What we call an option or a dotted setting of another trainer, as a sentence; None for one that is not known."""
    name = option.lower().replace("_", "-")
    ours = _OURS.get(f"--{name.removeprefix(_VERL)}" if name.startswith(_VERL) else name)
    return None if ours is None else f"here it is {ours}"
