"""The settings of a run, an evaluation and a grading, and what is checked of each value alone.

In come plain values; out come frozen sections, or an error that names the key. The defaults are the published recipe
(PHF, appendix A and table 3). The text under a field is its description on the site and in editors.
"""

from phfcli.core.config.evaluation import EvalConfig, GradeConfig, SampleColumns
from phfcli.core.config.objectives import (
    DivergenceSettings,
    GrpoSettings,
    ObjectiveSection,
    OisdSettings,
    SftSettings,
    TargetSettings,
    TeacherSettings,
)
from phfcli.core.config.sections import (
    Aggregate,
    ColumnSettings,
    HttpSettings,
    LayerChoice,
    ModelSettings,
    Positive,
    PromptSettings,
    Section,
    VllmSettings,
    Weight,
    is_line,
    weight_at,
)
from phfcli.core.config.training import LoraSettings, OffloadSettings, OptimSettings, RolloutSettings, TrainConfig

__all__ = [
    "Aggregate",
    "ColumnSettings",
    "DivergenceSettings",
    "EvalConfig",
    "GradeConfig",
    "GrpoSettings",
    "HttpSettings",
    "LayerChoice",
    "LoraSettings",
    "ModelSettings",
    "ObjectiveSection",
    "OffloadSettings",
    "OisdSettings",
    "OptimSettings",
    "Positive",
    "PromptSettings",
    "RolloutSettings",
    "SampleColumns",
    "Section",
    "SftSettings",
    "TargetSettings",
    "TeacherSettings",
    "TrainConfig",
    "VllmSettings",
    "Weight",
    "is_line",
    "weight_at",
]
