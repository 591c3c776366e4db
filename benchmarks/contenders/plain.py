"""The step written down plainly: whole logits of both readers, stacked log-probabilities, every hidden state.

It does what the published code does, with nothing of ours but the numbers of the recipe: one model with two adapters,
all logits of both sequences, the mixture by logsumexp over a stack, `output_hidden_states` where the flow is wanted.
"""

import json
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from harness.processes import measure, read_task
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from phfcli.core.seeds import derive_seed

TEMPERATURE, CLIP, ALPHA, POSITIONS, RHO = 1.1, 0.05, 0.05, 128, 0.999
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    task = read_task()
    device = task["device"]
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype="auto").to(device)
    lora = LoraConfig(r=64, lora_alpha=128, target_modules=TARGETS, task_type="CAUSAL_LM")
    torch.manual_seed(derive_seed(0, "lora"))  # the same adapter, so that losses agree at every step
    network: Any = get_peft_model(model, lora)
    network.add_adapter("teacher", lora)
    student = {n: p for n, p in network.named_parameters() if ".default." in n}
    teacher = {n.replace(".teacher.", ".default."): p for n, p in network.named_parameters() if ".teacher." in n}
    for name, p in student.items():
        teacher[name].data.copy_(p.data)
    network.set_adapter("default")
    optimizer = torch.optim.AdamW(student.values(), lr=5e-6, weight_decay=0.0)
    flow = task["objective"] == "phf"
    rollouts = task["rollouts"]
    completion = torch.tensor([r["completion"] for r in rollouts], device=device)
    inputs = {
        reader: torch.tensor([r[f"{reader}_prompt"] + r["completion"] for r in rollouts], device=device)
        for reader in ("student", "teacher")
    }
    count = completion.shape[1]
    last: list[Tensor] = [completion]
    model.get_decoder().layers[-1].register_forward_hook(lambda _module, _args, output: last.__setitem__(0, output))

    def read(reader: str) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, T, V] that predict the completion, and the states [B, T, d] of each layer on it."""
        out = network(input_ids=inputs[reader], output_hidden_states=flow, use_cache=False)
        # the last of hidden_states is after the final norm; a block's own output is not
        states = [*out.hidden_states[1:-1], last[0]] if flow else []
        return out.logits[:, -count - 1 : -1], [h[:, -count:] for h in states]

    def update() -> float:
        network.train()
        with torch.no_grad():
            network.set_adapter("teacher")
            teacher_logits, teacher_states = read("teacher")
        network.set_adapter("default")
        student_logits, student_states = read("student")
        loss = jsd(student_logits, teacher_logits).sum() / completion.numel()
        if flow:
            loss = loss + ALPHA * flow_term(student_states, teacher_states)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.values(), 0.1)
        optimizer.step()
        with torch.no_grad():
            for name, p in student.items():
                teacher[name].lerp_(p, 1 - RHO)
        return float(loss)

    print(json.dumps(measure(update, network, task["repeats"])))


def jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """The clipped divergence [B, T], beta 0.5."""
    log_S = F.log_softmax(student.float() / TEMPERATURE, dim=-1)
    log_T = F.log_softmax(teacher.float() / TEMPERATURE, dim=-1)
    log_M = torch.logsumexp(torch.stack([log_S, log_T]), dim=0) - torch.log(torch.tensor(2.0))
    to_teacher = F.kl_div(log_M, log_T, reduction="none", log_target=True)
    to_student = F.kl_div(log_M, log_S, reduction="none", log_target=True)
    return (0.5 * to_teacher + 0.5 * to_student).clamp(max=CLIP).sum(-1)


def flow_term(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Eqs. 4 to 13, a layer at a time."""
    chosen = torch.linspace(0, student[0].shape[1] - 1, POSITIONS).round().long()
    directions = []
    for states in (student, teacher):
        moved = [(h[:, chosen].float()).diff(dim=1) for h in states]
        directions.append([d / (d.norm(dim=-1, keepdim=True) + 1e-8) for d in moved])
    layers = list(zip(*directions, strict=True))
    pairs = POSITIONS - 1
    local = [
        ((1 - (S * T).sum(-1)).mean() + ((S @ S.mT - T @ T.mT) ** 2).sum((-2, -1)).mean() / pairs**2) / 2
        for S, T in layers
    ]
    adjacent = [((S @ S2.mT - T @ T2.mT) ** 2).sum((-2, -1)).mean() / pairs**2 for (S, T), (S2, T2) in pairwise(layers)]
    return (torch.stack(local).mean() + torch.stack(adjacent).mean()) / 2


if __name__ == "__main__":
    main()
