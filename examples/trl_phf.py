"""PHF inside TRL: its self-distillation trainer, plus the flow of the hidden states along the completion."""

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from phfcli.core.models.architecture import find_blocks
from phfcli.core.shipped_files import embedded_model, embedded_problems
from phfcli.losses import flow_loss, flow_terms, select_positions


class PhfTrainer(SDFTTrainer):
    """TRL's divergence plus alpha times the flow loss, on the states of the same two forward passes."""

    alpha = 0.05

    def _forward_logits(self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int) -> Tensor:
        states: list[Tensor] = []
        blocks = find_blocks(self.accelerator.unwrap_model(model).get_base_model())[1]
        hooks = [b.register_forward_hook(lambda _, __, out: states.append(out[:, -logits_to_keep:])) for b in blocks]
        logits: Tensor = super()._forward_logits(model, input_ids, attention_mask, logits_to_keep)
        for hook in hooks:
            hook.remove()
        self.flow_states.append(torch.stack(states))  # [L, B, C, d], at the completion's own tokens
        return logits

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.flow_states: list[Tensor] = []
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)
        positions, valid = select_positions(inputs["completion_mask"].sum(-1))  # [B, m]
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        student, teacher = (states[:, rows, positions] for states in self.flow_states)  # [L, B, m, d]
        flow = flow_loss(flow_terms(student, teacher, valid))
        return loss + self.alpha * flow / self.current_gradient_accumulation_steps


def build_trainer(folder: str, **changes: Any) -> PhfTrainer:
    """Trains an adapter of the embedded model; any instruct model and problems with references will do."""
    name = str(embedded_model())
    rows = Dataset.from_json(str(embedded_problems("train"))).rename_column("solution", "privileged_context")
    rows = rows.map(lambda row: {"prompt": [{"role": "user", "content": row["problem"]}]})
    settings = {"distillation_mode": "full_logits", "distillation_alpha": 0.5, "num_loss_tokens_to_skip": 0}
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "num_generations": 1, "max_completion_length": 48}
    shown = {"logging_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False}
    arguments = SDFTConfig(folder, **(settings | steps | shown | changes))
    lora, tokenizer = LoraConfig(r=16, target_modules="all-linear"), AutoTokenizer.from_pretrained(name)
    return PhfTrainer(AutoModelForCausalLM.from_pretrained(name), arguments, rows, None, tokenizer, peft_config=lora)


if __name__ == "__main__":
    trainer = build_trainer("runs/trl")
    trainer.train()
    print([step["loss"] for step in trainer.state.log_history if "loss" in step])
