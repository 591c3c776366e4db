"""The names that settings and options choose from. Imports nothing, so that help can list them at once."""

from typing import Literal, get_args

ObjectiveName = Literal["phf", "phf-local", "direction", "geometry", "pointwise", "opsd", "sft", "grpo"]
TeacherName = Literal["ema", "fixed", "online"]
EngineName = Literal["auto", "transformers", "vllm"]
EnergyName = Literal["loss", "direction", "geometry", "transition"]
ViewName = Literal["runs", "methods", "ablations", "dynamics"]
StateDtype = Literal["model", "float16", "bfloat16"]

OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
TEACHERS: tuple[TeacherName, ...] = get_args(TeacherName)
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
ENERGIES: tuple[EnergyName, ...] = get_args(EnergyName)
VIEWS: tuple[ViewName, ...] = get_args(ViewName)
