"""vLLM beside the trainer, and one that does not follow it."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import vllm


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_an_adapter_that_is_not_swapped_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A vLLM plugin, loaded in the engine's own process: whichever adapter is asked for, the first one is loaded."""
    site = tmp_path / "site"
    (site / "stale-1.0.dist-info").mkdir(parents=True)
    (site / "stale-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stale\nVersion: 1.0\n")
    (site / "stale-1.0.dist-info" / "entry_points.txt").write_text("[vllm.general_plugins]\nstale = stale:plant\n")
    (site / "stale.py").write_text(
        "def plant():\n"
        "    from copy import deepcopy\n"
        "    from vllm.lora.worker_manager import WorkerLoRAManager as Manager\n"
        "    own, kept = Manager._load_adapter, []\n"
        "    def load(self, request):\n"
        "        kept.append(deepcopy(own(self, request)))\n"
        "        stale = deepcopy(kept[0])\n"
        "        stale.id = request.lora_int_id\n"
        "        return stale\n"
        "    Manager._load_adapter = load\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *sys.path]))
    finding = next(vllm(Program(tmp_path)))
    assert (finding.state, finding.part) == ("failed", "vLLM")
    assert "draws the same under other weights, so it does not follow training" in finding.found
