"""The names that settings choose from. Imports nothing heavy, so that help can list them at once."""

from typing import Literal, get_args

TeacherName = Literal["ema", "fixed", "online", "synced", "external"]
StatesTeacherName = Literal["same", "unprivileged", "ema", "fixed", "online"]
ContextName = Literal[
    "reference",
    "first-third",
    "answer",
    "sibling",
    "other-reference",
    "other-problem",
    "wrong-answer",
    "reference-free",
    "reference-only",
]
ContextForm = Literal["reference", "example", "alone", "free"]  # of the teacher's prompt
EngineName = Literal["auto", "transformers", "vllm"]
Where = Literal["spread", "first", "last"]  # the positions of a completion
TrackerName = Literal["tensorboard", "wandb", "trackio"]
EnergyName = Literal["loss", "direction", "geometry", "transition"]
PolicyName = Literal["phf", "no-thinking", "math-verify", "last-box", "last-number", "strict"]
UnitName = Literal["seeds", "problems"]
ViewName = Literal["runs", "methods", "ablations", "dynamics"]
GoldForm = Literal["as-is", "last-box", "after-hashes", "last-number"]
BadRows = Literal["error", "skip"]

TOKEN_WEIGHTS = ("uniform", "sigmoid")
TEACHERS: tuple[TeacherName, ...] = get_args(TeacherName)
CONTEXTS: tuple[ContextName, ...] = get_args(ContextName)
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
GRADERS = ("math", "choice")
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)  # of grading mathematics
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
ENERGIES: tuple[EnergyName, ...] = get_args(EnergyName)
UNITS: tuple[UnitName, ...] = get_args(UnitName)  # over which an interval is taken
VIEWS: tuple[ViewName, ...] = get_args(ViewName)
