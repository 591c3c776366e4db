"""TRL's side of `benchmarks/parity/run.py`: one run of one of its trainers on the embedded model, in TRL's environment.

`python with_trl.py grpo|sft|opsd CONFIG.yaml ADAPTER_DIR`, with the settings that phf resolved for its own run. Model,
tokens of the prompts, problems and their order, grader and every number of the recipe are phf's; sampling, loss,
clipping, optimizer and teacher are TRL's.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from phfcli.core.config import TrainConfig
from phfcli.core.grading import Grader, Status
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.loading import load_model
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.runs.problems import Curriculum, load_problems
from phfcli.core.settings import Source, read_yaml, resolve
from phfcli.core.types import Problem

Row = dict[str, Any]


def main(system: str, settings: Path, adapter: Path) -> None:
    config = resolve(TrainConfig, [Source(str(settings), read_yaml(settings))])
    model = load_model(config)
    tokenizer = model.description.tokenizer
    prompts = build_prompts(tokenizer, config.prompt)
    curriculum = Curriculum(load_problems(config), config.batch_size, config.seed)
    problems = [problem for step in range(1, config.steps + 1) for problem in curriculum.batch(step)]
    rows = Dataset.from_list([_row(system, prompts, problem) for problem in problems])
    shared = {"model": model.causal, "processing_class": tokenizer, "train_dataset": rows, "peft_config": _lora(config)}
    with tempfile.TemporaryDirectory() as folder:
        common = _common(config, folder)
        if system == "sft":
            trainer = SFTTrainer(**shared, args=SFTConfig(**common, max_length=None, shuffle_dataset=False))
        elif system == "grpo":
            trainer = _grpo(config, model.description, shared, common)
        else:
            trainer = _opsd(config, shared, common)
        trainer.train()
    trainer.model.save_pretrained(adapter, selected_adapters=["default"])


def _row(system: str, prompts: Prompts, problem: Problem) -> Row:
    """Text that TRL's own tokenisation turns into phf's tokens."""
    assert problem.solution is not None
    row = {"prompt": prompts.student_text(problem.problem), "answer": problem.answer}
    ids = prompts.tokenizer(text=row["prompt"])["input_ids"]  # type: ignore[operator]
    assert ids == prompts.student(problem.problem)
    if system == "sft":
        # up to the end-of-sequence token: TRL would add one behind anything that follows it
        target = prompts.target(problem.problem, problem.solution)
        row["completion"] = prompts.tokenizer.decode(target)  # type: ignore[attr-defined]
        assert prompts.tokenizer(text=row["completion"])["input_ids"] == target  # type: ignore[operator]
    if system == "opsd":
        row["privileged_context"] = prompts.teacher_text(problem.problem, problem.solution)
    return row


def _common(config: TrainConfig, folder: str) -> Row:
    """What all of TRL's trainers are told. The rate is constant: phf's cosine has a horizon far beyond the run."""
    rollouts = config.batch_size * (config.grpo.group_size if config.objective == "grpo" else 1)
    return {
        "output_dir": folder,
        "seed": config.seed,
        "max_steps": config.steps,
        "per_device_train_batch_size": rollouts,
        "learning_rate": config.optim.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": config.optim.betas[0],
        "adam_beta2": config.optim.betas[1],
        "weight_decay": config.optim.weight_decay,
        "max_grad_norm": config.optim.max_grad_norm,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": config.device == "cpu",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 25,
    }


def _lora(config: TrainConfig) -> LoraConfig:
    lora = config.lora
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM")


def _sampling(config: TrainConfig) -> Row:
    rollout = config.rollout
    return {
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "shuffle_dataset": False,
    }


def _grpo(config: TrainConfig, description: ModelDescription, shared: Row, common: Row) -> GRPOTrainer:
    """No KL term, rewards over the deviation of their group, a mean over the tokens of the whole batch."""
    grader = Grader()

    def reward(completion_ids: list[list[int]], answer: list[str], **_: Any) -> list[float]:
        texts = [description.text(ids) for ids in completion_ids]
        grades = grader.grade(list(zip(answer, texts, strict=True)))
        whole = [ids[-1] in description.eos_ids for ids in completion_ids]
        return [float(ok and grade.status == Status.correct) for ok, grade in zip(whole, grades, strict=True)]

    arguments = GRPOConfig(
        **common,
        **_sampling(config),
        num_generations=config.grpo.group_size,
        beta=0.0,
        epsilon=config.grpo.epsilon,
        scale_rewards="group" if config.grpo.normalize else "none",
        loss_type="dapo" if config.grpo.aggregate == "token" else "grpo",
    )
    return GRPOTrainer(**shared, args=arguments, reward_funcs=reward)


def _opsd(config: TrainConfig, shared: Row, common: Row) -> SDFTTrainer:
    """Full-vocabulary JSD against an EMA adapter. TRL's average starts at zero, that is at the base model, and so does
    the student; and it takes a mean over each sample's tokens first."""
    assert config.divergence.kind == "jsd"
    arguments = SDFTConfig(
        **common,
        **_sampling(config),
        num_generations=1,
        max_prompt_length=None,
        distillation_mode="full_logits",
        distillation_alpha=config.divergence.beta,
        distillation_is_clip=None,
        teacher_model_kind="ema",
        teacher_update_rate=1 - config.teacher.decay,
    )
    trainer = SDFTTrainer(**shared, args=arguments)
    # the context is the whole privileged prompt, as phf renders it
    trainer.teacher_context_builder._compose_teacher_prompt = lambda _prompt, context: context
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
