"""What the doctor does on a GPU: its steps against the stored values, compiled blocks, and ranks over NCCL."""

from pathlib import Path

import pytest
import torch

from phfcli.core.doctor import steps
from phfcli.core.doctor.machine import machine
from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import memory_of

pytestmark = pytest.mark.gpu


def test_the_gpu_and_its_driver_are_named() -> None:
    found = {finding.part: finding for finding in machine()}
    assert torch.cuda.get_device_name(0) in found["devices"].found
    assert found["versions"].figures["NVIDIA driver"][0].isdigit()
    assert found["versions"].figures["cuda"] == torch.version.cuda


@pytest.mark.parametrize("dtype", steps.WAYS)
def test_a_step_is_the_stored_one(tmp_path: Path, dtype: str) -> None:
    finding = steps.reference_step(Program(tmp_path), steps.devices()[0], dtype)
    assert finding.state == "ok", finding.found


def test_the_memory_of_a_model_is_the_device_s(tmp_path: Path) -> None:
    assert memory_of(Program(tmp_path), "embedded").figures["measured_bytes"] < torch.cuda.mem_get_info()[1]


@pytest.mark.gpu(2)
def test_ranks_over_nccl_are_as_one(tmp_path: Path) -> None:
    finding = steps.several_processes(Program(tmp_path), torch.cuda.device_count())
    assert finding.state == "ok", finding.found
