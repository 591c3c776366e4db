"""TRL's SDFTTrainer at the same whole step: the same prompts, its own rollouts, full-vocabulary JSD, EMA adapter."""

import json
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from harness.processes import peak, read_task, reset_peak
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl_sdft import TARGETS


class Clock(TrainerCallback):
    """The CPU seconds of each step, from before its rollouts to after its update."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.rollouts, self.tokens, self.held, self.mark = 0.0, 0, 0, 0.0

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        self.held = reset_peak(model)
        self.mark = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.process_time()
        self.steps.append({"seconds": now - self.mark, "rollouts": self.rollouts, "tokens": self.tokens})
        self.mark = now


class OwnPrompts(SDFTTrainer):
    """The trainer on token ids that are given: a prompt's text is its key."""

    table: dict[str, list[int]]
    clock: Clock

    def _tokenize_prompts(self, prompts: list[Any]) -> list[list[int]]:
        return [self.table[prompt] for prompt in prompts]

    def _generate(self, prompt_ids: list[list[int]]) -> Any:
        started = time.process_time()
        prompts, completions = super()._generate(prompt_ids)
        self.clock.rollouts, self.clock.tokens = time.process_time() - started, sum(map(len, completions))
        return prompts, completions


def main() -> None:
    task = read_task()
    count = len(task["prompts"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = SDFTConfig(
            output_dir=folder,
            per_device_train_batch_size=task["batch_size"],
            max_steps=1 + task["repeats"],
            num_generations=1,
            max_completion_length=task["rollout.max_new_tokens"],
            max_prompt_length=None,
            learning_rate=5e-6,
            max_grad_norm=0.1,
            temperature=1.1,
            top_p=0.95,
            top_k=20,
            distillation_mode="full_logits",
            distillation_alpha=0.5,
            distillation_is_clip=None,
            num_loss_tokens_to_skip=0,
            teacher_model_kind="ema",
            teacher_update_rate=0.001,
            teacher_prompt_template="{prompt} {privileged_context}",
            gradient_checkpointing=False,
            bf16=task["dtype"] == "bfloat16",
            shuffle_dataset=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        clock = Clock()
        OwnPrompts.clock = clock
        pairs = list(enumerate(task["prompts"]))
        OwnPrompts.table = {f"s{i}": own for i, (own, _) in pairs} | {f"s{i} t{i}": other for i, (_, other) in pairs}
        trainer = OwnPrompts(
            model=AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"])),
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": f"s{i}", "privileged_context": f"t{i}"} for i in range(count)]),
            processing_class=AutoTokenizer.from_pretrained(task["model"]),
            peft_config=LoraConfig(r=64, lora_alpha=128, target_modules=TARGETS, task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        trainer.train()
    print(json.dumps({"steps": clock.steps[1:], "memory_bytes": peak("cpu") - clock.held}))


if __name__ == "__main__":
    main()
