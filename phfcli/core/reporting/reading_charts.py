"""Charts of what other papers show of a model, beside the flow. docs/figures.md says how to read them."""

from matplotlib.axes import Axes

from phfcli.core.analysis.diagnose import LayerReport
from phfcli.core.reporting.flow_charts import MARKERS, SERIES, at_step, name_axes, tell, title


def state_cosine(axes: Axes, report: LayerReport) -> None:
    """The cosine of the last block's states over the first and over the last k tokens (OPRD, figure 8)."""
    found = report.state_cosine
    for place, (end, rows) in enumerate(found.ends()):
        points = [(k, row[-1]) for k, row in zip(found.tokens, rows, strict=True) if row[-1] is not None]
        (line,) = axes.plot(
            *zip(*points, strict=True), color=SERIES[place], marker=MARKERS[place], label=f"{end} k tokens"
        )
        tell(line, f"{end} k tokens: " + ", ".join(f"{k} {value:.4f}" for k, value in points))
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.tokens, [*map(str, found.tokens[:-1]), "all"])
    name_axes(axes, "k tokens of the rollout", f"cosine of states, block {report.layers[-1]}")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}both readers' states at either end")
