"""phfcli: on-policy self-distillation of reasoning models, with Privileged Hidden Flow.

    import phfcli as phf

    run = phf.train(model="embedded", objective="phf", steps=20)
    scores = phf.evaluate(run, bench="embedded", n=12)
    report = phf.diagnose(run)
    difference = phf.compare([run, "runs/embedded"])

The mathematics alone is in `phfcli.losses`, the grader in `phfcli.grading`.
"""

from phfcli.api.evaluation import evaluate
from phfcli.api.extensions import (
    register_benchmark,
    register_engine,
    register_grader,
    register_objective,
    register_teacher,
    register_tracker,
)
from phfcli.api.findings import Comparison, Diagnosis, compare, diagnose, load_flow
from phfcli.api.instruments import Probe, Regraded, export, grade, probe, report
from phfcli.api.results import Evaluation, Run, StepMetrics, load_run
from phfcli.api.training import Training, train, training
from phfcli.core.errors import FaultError, MissingFileError, UserError
from phfcli.core.version import __version__

__all__ = [
    "Comparison",
    "Diagnosis",
    "Evaluation",
    "FaultError",
    "MissingFileError",
    "Probe",
    "Regraded",
    "Run",
    "StepMetrics",
    "Training",
    "UserError",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "grade",
    "load_flow",
    "load_run",
    "probe",
    "register_benchmark",
    "register_engine",
    "register_grader",
    "register_objective",
    "register_teacher",
    "register_tracker",
    "report",
    "train",
    "training",
]
