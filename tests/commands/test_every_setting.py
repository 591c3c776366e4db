"""Every setting of a run, taken off its default, many in one run: its training ends well."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import Done
from trained import json_lines, undrawn

from phfcli.core.config import TrainConfig
from phfcli.core.settings import leaves

# what a run is about: the settings that it takes off their defaults, each of which is in one run at least
RUNS: dict[str, tuple[str, ...]] = {
    "columns and prompts": (
        "data=renamed.jsonl",
        "columns.problem=question",
        "columns.solution=worked",
        "columns.answer=gold",
        "bad_rows=skip",
        "overlong=skip",
        "prompt.student=Solve this: {problem}",
        "prompt.teacher=Solve this: {problem} Its solution: {solution}",
        "prompt.thinking=false",
        "prompt.day=2026-03-05",
        "prompt.teacher_thinking=false",
        "seed=7",
        "output_dir=elsewhere",
    ),
    "the machine": (
        "dtype=bfloat16",
        "device=cpu",
        "attention=eager",
        "quantization=int8",
        "steps=2",
        "batch_size=3",
        "micro_batch_size=1",
        "gradient_checkpointing=true",
        "checkpoint_every=1",
        "keep=1",
        "report_to=[tensorboard]",
        "lora.r=2",
        "lora.alpha=4",
        "lora.target_modules=[q_proj, v_proj]",
        "offload.activations=true",
    ),
    "full tuning": (
        "tuning=full",
        "prompt.chat_template=chat.jinja",
        "optim.lr=1e-4",
        "optim.betas=[0.8, 0.9]",
        "optim.weight_decay=0.1",
        "optim.max_grad_norm=1.0",
        "optim.warmup_steps=1",
        "optim.horizon_epochs=2",
        "teacher.decay=0.5",
        "teacher.context=answer",
        "evaluation.every=1",
        "evaluation.bench=embedded-dev",
        "evaluation.n=1",
        "evaluation.limit=2",
        "evaluation.max_new_tokens=9",
        "evaluation.patience=1",
    ),
    "rewards beside the teacher": (
        "reward_weight=0.5",
        "grpo.group_size=2",
        "rollout.engine=transformers",
        "rollout.max_new_tokens=5",
        "rollout.temperature=0.7",
        "rollout.top_p=1",
        "rollout.top_k=0",
        "rollout.ahead=1",
        "base_kl=0.1",
        "optim.horizon_steps=10",
        "teacher.kind=synced",
        "teacher.every=1",
    ),
    "an external teacher": (
        "teacher.kind=external",
        "teacher.model=embedded",
        "rollout.references=0.5",
        "batch_size=6",
        "divergence.clip=null",
        "divergence.kind=reverse_kl",
    ),
    "the divergence": (
        "divergence.beta=0.1",
        "divergence.temperature=2.0",
        "divergence.teacher_temperature=2.0",
        "divergence.clip_mode=token",
        "divergence.aggregate=sequence",
        "teacher.states=unprivileged",
        "flow.alpha={0: 1.0, 1: 0.5}",
        "divergence.weight=0.5",
        "divergence.one_stop=true",
        "flow.saved_samples=0",
    ),
    "likeliest tokens, and the flow": (
        "rollout.top_p=0.5",
        "rollout.per_problem=2",
        "weights=sigmoid",
        "divergence.gate=0.99",
        "teacher.kind=online",
        "divergence.top_k=4",
        "divergence.support=union",
        "divergence.tail=true",
        "flow.positions=4",
        "flow.layers=[1, 50%, 4]",
    ),
    "the flow of next layers": ("flow.layers=[1, 3]", "flow.adjacent=next"),
    "a contrast": (
        "teacher.context=wrong-answer",
        "target.against=reference-only",
        "target.start=reference",
        "target.beta=2.0",
        "target.bound=5.0",
        "target.floor=-9.0",
    ),
    "sft": ("objective=sft", "sft.max_tokens=300"),
    "grpo": (
        "objective=grpo",
        "data=boxed.jsonl",
        "gold=last-box",
        "grpo.group_size=3",
        "grpo.normalize=false",
        "grpo.aggregate=sequence",
        "grpo.epsilon=0.1",
        "grpo.ratio_cap=1.0",
    ),
    "oisd": (
        "objective=oisd",
        "oisd.layer=2",
        "oisd.think=0",
        "oisd.advantage_clip=0.5",
    ),
    "oisd without attention": ("objective=oisd", "oisd.attention=0"),
    "opd": ("objective=opd", "opd.support=top_k", "opd.weight=0.5"),
    "opd, drawn ahead": (
        "objective=opd",
        "opd.support=full",
        "rollout.ahead=1",
        "rollout.top_p=1",
        "rollout.top_k=0",
    ),
    "oprd": (
        "objective=oprd",
        "oprd.layers=[1, 2]",
        "oprd.positions=spread-4",
        "oprd.normalized=true",
        "oprd.aggregate=sequence",
        "oprd.mu=0.5",
    ),
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
    "http.api": "needs a server: tests/core/rollouts/chat",
    "http.key": "needs a server: tests/core/rollouts/chat",
    "http.adapter_folder": "needs a server: tests/core/rollouts/http",
    "http.in_flight": "needs a server: tests/core/rollouts/http",
    "http.patience_s": "needs a server: tests/core/rollouts/http",
    "http.timeout_s": "needs a server: tests/core/rollouts/http",
}
SMALL = ("steps=1", "batch_size=2", "rollout.max_new_tokens=8", "lora.r=4", "output_dir=run", "flow.saved_samples=1")


def pairs(*settings: str) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in settings)


def test_no_setting_is_left_out() -> None:
    tried = {key for settings in RUNS.values() for key in pairs(*settings)}
    assert tried - {"data", "objective"} == set(leaves(TrainConfig().model_dump(mode="json"))) - set(ELSEWHERE)


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
@pytest.mark.parametrize("about", RUNS)
def test_a_run_under_many_settings_ends_well(about: str, phf: Callable[..., Done], files: Path) -> None:
    settings = pairs(*SMALL) | pairs(*RUNS[about])
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = phf("train", *options, "--quiet")
    assert done.code == 0, done.err
    run = files / settings["output_dir"]
    lines = json_lines(run / "metrics.jsonl")
    assert len(lines) == int(settings["steps"])
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert undrawn(run) == set()
    config = leaves(yaml.safe_load((run / "config.yaml").read_text()))
    defaults = leaves(TrainConfig().model_dump(mode="json"))
    same = {key for key in pairs(*RUNS[about]) if config[key] == defaults[key]}
    assert same <= {"output_dir"}, "a setting was left at its default"
