"""Writes what `phf doctor` compares a machine with: `python data/doctor_reference.py`, on a trusted machine."""

import json
import tempfile
from pathlib import Path

from phfcli.core.doctor.program import Program, metrics_of
from phfcli.core.doctor.steps import REFERENCE, STEPS, WAYS

METRICS = ("loss", "divergence", "flow", "grad_norm", "rollout_tokens")


def main() -> None:
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder))
        for dtype, step in WAYS.items():
            run = Path(folder) / dtype
            outcome = program.run([*step, "--steps", str(STEPS), "--output-dir", str(run)])
            assert outcome.done, outcome.why
            values[dtype] = [{name: line[name] for name in METRICS} for line in metrics_of(run)]
    REFERENCE.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
