"""What is printed after each training step loads no library that training has not loaded already."""

import subprocess
import sys

import pytest

from phfcli.commands.output import GLUE

PRINT_A_STEP = """
import sys
import rich.live, rich.progress, rich.table
import phfcli.core.training.start
from phfcli.api.progress import StepBar
from phfcli.commands.train import step_line, step_table
from phfcli.core.settings import resolve_train

metrics = {"step": 1, "loss": 1.5, "reward": 0.25, "my_gap": 2.0, "grad_norm": 1.0, "rollout_tokens": 3.0}
metrics |= {"tokens_per_s": 4.0}
config = resolve_train([])
before = set(sys.modules)
print(step_line(metrics, config))
step_table(metrics, 10, 5.0)
with StepBar(shown=False) as bar:
    bar.show(metrics, 10)
print(*sorted(set(sys.modules) - before), sep=chr(10))
"""


@pytest.mark.slow
def test_a_step_is_shown_without_matplotlib_or_scipy() -> None:
    done = subprocess.run([sys.executable, "-c", PRINT_A_STEP], capture_output=True, text=True, check=True)
    line, *loaded = done.stdout.replace(GLUE, " ").splitlines()
    assert "loss 1.5000" in line
    assert "reward 25.0 %" in line
    assert "my_gap 2.0000" in line
    libraries = {name.split(".")[0] for name in loaded}
    assert not libraries & {"matplotlib", "pandas", "phfcli", "scipy"}
