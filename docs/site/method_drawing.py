"""Draws docs/images/method.png from the embedded run: python docs/site/method_drawing.py RUN

The first rollout of the newest flow, at one layer: both readers' paths, one transition, and the Gram matrices.
"""

import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from phfcli.core.analysis.diagnose import flow_files
from phfcli.core.reporting.figures import figure_of, save_figure
from phfcli.core.reporting.flow_charts import BLUE, ORANGE, name_axes, title
from phfcli.core.runs.flows import open_flow

_LAYER = 2  # the first is 1
_SHOWN = 12  # positions of the path
_MARKED = 4  # the transition that is drawn bold


def main(run: Path) -> None:
    states = next(open_flow(flow_files(run)[-1]).rollout_states())
    student, teacher = (own[_LAYER - 1].float() for own in (states.student, states.teacher))
    panels = [lambda axes: paths(axes, student[:_SHOWN], teacher[:_SHOWN])]
    for name, own in (("student", student), ("teacher", teacher)):
        panels.append(lambda axes, name=name, own=own: gram(axes, own, name))  # type: ignore[misc]
    save_figure(figure_of(panels), Path(__file__).parents[1] / "images" / "method.png")


def paths(axes: Axes, student: Tensor, teacher: Tensor) -> None:
    """Both paths in the plane that shows most of them, words apart."""
    together = torch.cat([student, teacher])
    plane = torch.pca_lowrank(together, q=2)[2]
    for own, colour, name in ((student, BLUE, "student"), (teacher, ORANGE, "teacher")):
        x, y = ((own - together.mean(0)) @ plane).T.tolist()
        axes.plot(x, y, "o-", color=colour, markersize=3, linewidth=0.8, label=name)
        ends = [(x[place], y[place]) for place in (_MARKED, _MARKED + 1)]
        axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 2.5})
    axes.legend(frameon=False)
    name_axes(axes, "", "")
    axes.set_xticks([])
    axes.set_yticks([])
    title(axes, f"paths through layer {_LAYER}; bold: one transition")


def gram(axes: Axes, states: Tensor, name: str) -> None:
    """The cosine between every two directions."""
    steps = states.diff(dim=0)
    directions = steps / steps.norm(dim=-1, keepdim=True)
    image = axes.imshow((directions @ directions.T).tolist(), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.figure.colorbar(image, ax=axes, label="cosine of two directions")
    name_axes(axes, "transition", "transition")
    title(axes, f"Gram matrix of the {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
