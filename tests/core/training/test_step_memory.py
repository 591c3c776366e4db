"""The memory of a step, phase by phase."""

from typing import Any

import pytest

from phfcli.core.config import TrainConfig
from phfcli.core.models.description import load_config
from phfcli.core.objectives.build import build_objective
from phfcli.core.training.step_memory import Lengths, Memory, step_memory

LENGTHS = Lengths(student=30, teacher=90, completion=64)


def memory(processes: int = 1, lengths: Lengths = LENGTHS, external: bool = False, **settings: Any) -> Memory:
    config = TrainConfig(**{"device": "cpu", "batch_size": 8, **settings})
    arch = load_config("embedded")
    return step_memory(config, build_objective(config).needs, arch, lengths, processes, arch if external else None)


def test_the_peak_is_what_is_always_there_and_the_largest_phase() -> None:
    found = memory()
    sizes = {name: sum(parts.values()) for name, parts in found.phases.items()}
    assert found.peak_phase == max(sizes, key=lambda name: sizes[name])
    assert found.at_peak()["total"] == sum(found.always.values()) + max(sizes.values())


def test_weights_adapter_teacher_and_optimizer_are_counted_by_hand() -> None:
    found = memory(lora={"r": 8, "alpha": 16}).always
    d, inner, kv = 128, 256, 64  # of the embedded model's 4 layers
    ins_and_outs = (d + d) + 2 * (d + kv) + (d + d) + 2 * (d + inner) + (inner + d)
    adapter = 4 * 8 * ins_and_outs * 4
    assert (found["adapter"], found["teacher"], found["AdamW"]) == (adapter, adapter, 2 * adapter)


@pytest.mark.slow
def test_more_is_predicted_for_what_takes_more() -> None:
    def above(found: Memory) -> int:
        return found.at_peak()["total"] - found.always["libraries"]

    base = above(memory(objective="opsd"))
    assert above(memory(objective="phf")) > base
    assert above(memory(objective="opsd", micro_batch_size=8)) > base
    assert above(memory(objective="opsd", lengths=Lengths(30, 90, 128))) > base
    assert above(memory(objective="opsd", gradient_checkpointing=True)) < base
    assert above(memory(objective="opsd", processes=8)) < base  # one sample for each, where a micro-batch has four
    assert above(memory(objective="opsd", tuning="full")) > above(memory(objective="opsd", lora={"r": 8, "alpha": 8}))


def test_activations_that_are_offloaded_are_not_on_the_device() -> None:
    here, away = (memory(device="meta", offload={"activations": wanted}) for wanted in (False, True))
    assert away.phases["loss"]["activations"] <= here.phases["loss"]["activations"]


def test_a_teacher_that_is_another_model_costs_its_weights() -> None:
    teacher = {"kind": "external", "model": "embedded"}
    found = memory(external=True, objective="opd", rollout={"top_p": 1, "top_k": 0}, teacher=teacher)
    assert found.always["teacher"] == found.always["weights"]


@pytest.mark.slow
def test_a_base_costs_a_pass_and_where_all_weights_train_a_copy() -> None:
    adapted, whole = memory(base_kl=0.1), memory(base_kl=0.1, tuning="full")
    assert 0 < sum(adapted.phases["base"].values()) <= sum(adapted.phases["teacher"].values())
    assert (adapted.always["base"], whole.always["base"]) == (0, whole.always["teacher"])
    assert "base" not in memory().phases


def test_an_offline_objective_has_no_rollout_and_a_plain_one_no_teacher() -> None:
    assert set(memory(objective="sft").phases) == {"loss", "backward"}
    assert "rollout" in memory().phases
    assert memory(objective="sft").always["teacher"] == 0


@pytest.mark.parametrize("objective", ["opsd", "phf"])
def test_the_loss_holds_the_states_it_reads(objective: str) -> None:
    parts = memory(objective=objective).phases["loss"]
    assert (parts["captured states"] > 0) == (objective == "phf")


def test_a_sharded_base_is_shared_out_but_whole_while_it_samples() -> None:
    alone, shared = memory(), memory(processes=4, sharding="fsdp")
    blocks = 2_359_296  # of the embedded model, all its decoder blocks, float32
    away = alone.always["weights"] - shared.always["weights"]
    assert away == pytest.approx(blocks * 3 / 4, rel=0.01)
    assert shared.phases["rollout"]["whole weights"] == away


def test_where_all_weights_are_sharded_a_process_has_its_part_of_all_that_belongs_to_them() -> None:
    alone, shared = memory(tuning="full", base_kl=0.1), memory(tuning="full", base_kl=0.1, processes=4, sharding="fsdp")
    for name in ("teacher", "base", "AdamW"):
        assert shared.always[name] == pytest.approx(alone.always[name] / 4, rel=1e-6)
    away = alone.always["weights"] - shared.always["weights"]
    assert away == pytest.approx(shared.always["teacher"] * 3, rel=0.01)
    assert shared.phases["rollout"]["whole weights"] == away
    head = 274 * 128 * 4  # tied with the embeddings: in a pass it is whole, and its copies are both teachers'
    assert 2 * head < shared.phases["loss"]["whole weights"] < 3 * head + 1000
    assert shared.phases["backward"]["gradients"] < 0.6 * alone.phases["backward"]["gradients"]
