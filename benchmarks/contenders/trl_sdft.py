"""TRL's SDFTTrainer on the same tokens: full-vocabulary JSD, an EMA adapter, its own training loop.

Sampling is left out for every contender: the trainer gets ready-made rollouts in the place where it would draw them.
"""

import json
import tempfile
import time
from itertools import chain
from typing import Any

import torch
from datasets import Dataset
from harness.processes import peak, read_task, reset_peak
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    """The wall clock of each optimiser step, and the memory held before the first."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.held = 0
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        self.held = reset_peak(model)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


class ReadyMade(SDFTTrainer):
    """The trainer with its rollouts given."""

    batch: dict[str, torch.Tensor]

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        return self.batch


def main() -> None:
    task = read_task()
    rollouts, device = task["rollouts"], task["device"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SDFTConfig(
            output_dir=folder,
            per_device_train_batch_size=len(rollouts),
            max_steps=1 + task["repeats"],
            num_generations=1,
            learning_rate=5e-6,
            max_grad_norm=0.1,
            temperature=1.1,
            distillation_mode="full_logits",
            distillation_alpha=0.5,
            distillation_is_clip=None,
            num_loss_tokens_to_skip=0,
            teacher_model_kind="ema",
            teacher_update_rate=0.001,
            gradient_checkpointing=task.get("gradient_checkpointing", False),
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=device == "cpu",
            disable_tqdm=True,
        )
        clock = Clock(device)
        trainer = ReadyMade(
            model=AutoModelForCausalLM.from_pretrained(task["model"], dtype="auto"),
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "x", "privileged_context": "y"}] * 64),
            processing_class=AutoTokenizer.from_pretrained(task["model"]),
            peft_config=LoraConfig(r=64, lora_alpha=128, target_modules=TARGETS, task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        trainer.batch = _batch(rollouts, device)
        trainer.train()
    figures = {"seconds": clock.seconds[1:], "memory_bytes": peak(device) - clock.held, "losses": clock.losses}
    print(json.dumps(figures))


def _batch(rollouts: list[dict[str, list[int]]], device: str) -> dict[str, torch.Tensor]:
    """What the trainer makes of rollouts that it draws itself; ours are of one length, so nothing is padded."""

    def stack(*names: str) -> torch.Tensor:
        return torch.tensor([list(chain(*(r[name] for name in names))) for r in rollouts], device=device)

    batch = {
        "prompt_ids": stack("student_prompt"),
        "completion_ids": stack("completion"),
        "teacher_input_ids": stack("teacher_prompt", "completion"),
    }
    masks = {
        "prompt_mask": "prompt_ids",
        "completion_mask": "completion_ids",
        "teacher_attention_mask": "teacher_input_ids",
    }
    return batch | {mask: torch.ones_like(batch[ids]) for mask, ids in masks.items()}


if __name__ == "__main__":
    main()
