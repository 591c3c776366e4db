"""Other trainers' names of options and settings, answered with ours."""

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
    "--num-generations": "--set grpo.group_size=N",
    "--max-completion-length": "--set rollout.max_new_tokens=N",
    "--max-tokens": "--max-new-tokens of eval, --set rollout.max_new_tokens=N of train",
    "--save-steps": "--checkpoint-every",
    "--save-total-limit": "--keep",
    "--eval-steps": "--eval-every",
    "--output": "--output-dir",
    "--top-p": "--set top_p=P of eval, --set rollout.top_p=P of train",
    "--top-k": "--set top_k=K of eval, --set rollout.top_k=K of train",
    "--beta": "--set divergence.beta=B",
    "--max-grad-norm": "--set optim.max_grad_norm=X",
    "--num-samples": "--n",
    "--benchmark": "--bench",
    "--tasks": "--bench",
    "--gpus": "--devices of eval, --processes of train",
}


def answer(option: str) -> str | None:
    """What we call an option of another trainer, as a sentence; None for one that is not known."""
    ours = _OURS.get(option.lower().replace("_", "-"))
    return None if ours is None else f"here it is {ours}"
