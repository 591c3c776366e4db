"""Every setting of a run, taken off its default: one step of training ends well, whatever else is left as it is."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Done
from trained import json_lines, undrawn

from phfcli.core.config import TrainConfig
from phfcli.core.settings import leaves

# key: the value to try, and what has to go with it
TRIED: dict[str, tuple[str, ...]] = {
    "columns.problem": ("question", "data=renamed.jsonl", "columns.solution=worked", "columns.answer=gold"),
    "columns.solution": ("worked", "data=renamed.jsonl", "columns.problem=question", "columns.answer=gold"),
    "columns.answer": ("gold", "data=renamed.jsonl", "columns.problem=question", "columns.solution=worked"),
    "bad_rows": ("skip",),
    "gold": ("last-box", "objective=grpo", "grpo.group_size=2", "data=boxed.jsonl"),
    "dtype": ("bfloat16",),
    "device": ("cpu",),
    "attention": ("eager",),
    "quantization": ("int8",),
    "prompt.student": ("Solve this: {problem}",),
    "prompt.teacher": ("Solve this: {problem} Its solution: {solution}",),
    "prompt.thinking": ("false",),
    "prompt.teacher_thinking": ("false",),
    "prompt.chat_template": ("chat.jinja",),
    "overlong": ("skip",),
    "reward_weight": ("0.5", "grpo.group_size=2", "rollout.top_p=1", "rollout.top_k=0"),
    "base_kl": ("0.1",),
    "seed": ("7",),
    "weights": ("forks",),
    "steps": ("2",),
    "batch_size": ("3",),
    "micro_batch_size": ("1",),
    "gradient_checkpointing": ("true",),
    "checkpoint_every": ("1",),
    "keep": ("1",),
    "output_dir": ("elsewhere",),
    "report_to": ("[tensorboard]",),
    "tuning": ("full",),
    "lora.r": ("2",),
    "lora.alpha": ("4",),
    "lora.target_modules": ("[q_proj, v_proj]",),
    "optim.lr": ("1e-4",),
    "optim.betas": ("[0.8, 0.9]",),
    "optim.weight_decay": ("0.1",),
    "optim.max_grad_norm": ("1.0",),
    "optim.warmup_steps": ("1",),
    "optim.horizon_epochs": ("2",),
    "optim.horizon_steps": ("10",),
    "rollout.engine": ("transformers",),
    "rollout.max_new_tokens": ("5",),
    "rollout.temperature": ("0.7",),
    "rollout.top_p": ("0.5",),
    "rollout.top_k": ("0",),
    "rollout.per_problem": ("2",),
    "rollout.references": ("0.5", "batch_size=6"),
    "rollout.ahead": ("1",),
    "divergence.kind": ("reverse_kl",),
    "divergence.beta": ("0.1",),
    "divergence.temperature": ("2.0",),
    "divergence.teacher_temperature": ("2.0",),
    "divergence.clip": ("null",),
    "divergence.clip_mode": ("token",),
    "divergence.top_k": ("4",),
    "divergence.support": ("union", "divergence.top_k=4"),
    "divergence.tail": ("true", "divergence.top_k=4"),
    "divergence.aggregate": ("sequence",),
    "flow.alpha": ("0",),
    "flow.positions": ("4",),
    "flow.layers": ("[1, 50%, 4]",),
    "flow.adjacent": ("next", "flow.layers=[1, 3]"),
    "flow.saved_samples": ("0",),
    "teacher.kind": ("online",),
    "teacher.decay": ("0.5",),
    "teacher.every": ("1", "teacher.kind=synced"),
    "teacher.model": ("embedded", "teacher.kind=external"),
    "teacher.context": ("answer",),
    "teacher.states": ("unprivileged",),
    "evaluation.every": ("1", "evaluation.bench=embedded-dev", "evaluation.n=1", "evaluation.limit=2"),
    "evaluation.bench": ("embedded-dev", "evaluation.every=1", "evaluation.n=1", "evaluation.limit=2"),
    "evaluation.n": ("1", "evaluation.every=1", "evaluation.bench=embedded-dev", "evaluation.limit=2"),
    "evaluation.limit": ("2", "evaluation.every=1", "evaluation.bench=embedded-dev", "evaluation.n=1"),
    "evaluation.max_new_tokens": ("9", "evaluation.every=1", "evaluation.bench=embedded-dev", "evaluation.limit=2"),
    "evaluation.patience": ("1", "evaluation.every=1", "evaluation.bench=embedded-dev", "evaluation.limit=2"),
    "offload.activations": ("true",),
    "sft.max_tokens": ("300", "objective=sft"),
    "grpo.group_size": ("3", "objective=grpo"),
    "grpo.normalize": ("false", "objective=grpo"),
    "grpo.aggregate": ("sequence", "objective=grpo"),
    "grpo.epsilon": ("0.1", "objective=grpo"),
    "grpo.ratio_cap": ("1.0", "objective=grpo"),
    "oisd.layer": ("2", "objective=oisd"),
    "oisd.think": ("0", "objective=oisd"),
    "oisd.attention": ("0", "objective=oisd"),
    "oisd.advantage_clip": ("0.5", "objective=oisd"),
    "opd.support": ("full", "objective=opd"),
    "oprd.layers": ("[1, 2]", "objective=oprd"),
    "oprd.positions": ("spread-4", "objective=oprd"),
    "oprd.normalized": ("true", "objective=oprd"),
    "oprd.mu": ("0.5", "objective=oprd"),
}
ELSEWHERE = {
    "grader": "examples/own_benchmark.py",
    "sharding": "needs processes: tests/commands/test_train_ranks.py",
    "model": "tests/core/models",
    "data": "the columns above",
    "objective": "tests/commands/test_train.py",
    "oprd.bridge": "tests/commands/test_bridge.py",
    "vllm.tensor_parallel": "needs vLLM: tests/core/rollouts",
    "vllm.memory_share": "needs vLLM: tests/core/rollouts",
    "vllm.max_num_seqs": "needs vLLM: tests/core/rollouts",
    "vllm.sleep": "needs vLLM: tests/core/rollouts",
    "http.adapter_folder": "needs a server: tests/core/rollouts/http",
    "http.in_flight": "needs a server: tests/core/rollouts/http",
    "http.patience_s": "needs a server: tests/core/rollouts/http",
    "http.timeout_s": "needs a server: tests/core/rollouts/http",
}
SMALL = ("steps=1", "batch_size=2", "rollout.max_new_tokens=8", "lora.r=4", "output_dir=run", "flow.saved_samples=1")


def test_no_setting_is_left_out() -> None:
    assert set(TRIED) | set(ELSEWHERE) == set(leaves(TrainConfig().model_dump(mode="json")))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What some of the values name."""
    row = {"question": "1 + 2?", "worked": "1+2=3. \\boxed{3}", "gold": 3}
    (tmp_path / "renamed.jsonl").write_text(json.dumps(row) + "\n")
    boxed = {"problem": "1 + 2?", "solution": "1+2=3. \\boxed{3}", "answer": "so \\boxed{3}"}
    (tmp_path / "boxed.jsonl").write_text(json.dumps(boxed) + "\n")
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("key", TRIED)
def test_a_step_under_it_ends_well(key: str, phf: Callable[..., Done], files: Path) -> None:
    value, *beside = TRIED[key]
    pairs = {**dict(pair.split("=", 1) for pair in (*SMALL, *beside)), key: value}
    options = [part for name, own in pairs.items() for part in ("--set", f"{name}={own}")]
    done = phf("train", *options, "--quiet")
    assert done.code == 0, done.err
    lines = json_lines(files / pairs["output_dir"] / "metrics.jsonl")
    assert len(lines) == int(pairs["steps"])
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert undrawn(files / pairs["output_dir"]) == set()
