"""How a study's report looks: one table, one picture, and where each number is from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from plan import Study, StudyRun, runs_of

Row = dict[str, Any]


def draw(study: Study, rows: Sequence[Row], path: Path) -> None:
    """Accuracy against steps, a line for each system with the standard error over seeds; the legend is in the order
    in which the lines end."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    start = next((row["averages"][0] for row in rows if row["system"] == "base"), None)
    systems = [row for row in rows if row["system"] != "base"]
    systems.sort(key=lambda row: -row["averages"][max(row["averages"])]["mean"])
    for place, row in enumerate(systems):
        points = ({0: start} if start else {}) | row["averages"]
        axes.errorbar(
            list(points),
            [100 * point["mean"] for point in points.values()],
            yerr=[100 * (point["stderr"] or 0) for point in points.values()],
            label=f"{row['title']} ({len(row['seeds'])})",
            color=f"C{place % 10}",
            linestyle="-" if place < 10 else "--",
            marker="o",
            markersize=4,
            capsize=2,
        )
    axes.set_xticks([0, *study.steps])
    axes.set_xlabel("training step")
    axes.set_ylabel(f"Average@{study.samples}, % ± standard error over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", frameon=False, title="system (seeds)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def page(study: Study, rows: Sequence[Row], path: Path) -> str:
    """The Markdown page."""
    done, wanted = sum(len(row["seeds"]) for row in rows), len(runs_of(study))
    missing = [system.title for system in study.systems.values() if not system.known]
    lines = [
        f"# {study.title}",
        "",
        f"Made by `make {path.stem.lower()}` from the runs in `{study.folder}`; not to be edited.",
        "",
    ]
    if done < wanted:
        lines += [f"**Not complete: {done} of {wanted} runs are finished.**", ""]
    if missing:
        lines += [f"This version of phf cannot train: {', '.join(missing)}.", ""]
    lines += [
        study.shows.rstrip(),
        "",
        *_table(study, rows),
        "",
        *_verdict(study, rows),
        "",
        *_sources(study, rows, path),
    ]
    return "\n".join(lines) + "\n"


def _table(study: Study, rows: Sequence[Row]) -> list[str]:
    to = study.systems[study.baseline].title
    heads = [
        "system",
        "seeds",
        "lr",
        f"Average@{study.samples}, %",
        f"minus {to}, points",
        "95% interval",
        "s a step",
        "peak MiB",
    ]
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        apart = row.get("difference")
        cells = [
            row["title"],
            str(len(row["seeds"])),
            ", ".join(f"{rate:g}" for rate in row.get("lr", [])),
            _with_error(row["averages"][max(row["averages"])]),
            _with_error(apart, "+") if apart else "",
            f"{100 * apart['low']:+.1f} to {100 * apart['high']:+.1f}" if apart and apart["low"] is not None else "",
            f"{row['seconds_per_step']:.2f}" if "seconds_per_step" in row else "",
            f"{row['peak_memory_bytes'] / 2**20:.0f}" if "peak_memory_bytes" in row else "",
        ]
        table.append(f"| {' | '.join(cells)} |")
    return table


def _verdict(study: Study, rows: Sequence[Row]) -> list[str]:
    """Which rows the intervals tell from the baseline."""
    to, told = study.systems[study.baseline].title, {"Above": [], "Below": [], "Not told apart from": []}
    for row in rows:
        apart = row.get("difference")
        if apart and row["system"] != "base" and apart["low"] is not None:
            side = "Above" if apart["low"] > 0 else "Below" if apart["high"] < 0 else "Not told apart from"
            told[side].append(row["title"])
    lines = [f"- {side} {to}: {', '.join(titles) or 'none'}." for side, titles in told.items()]
    return [*lines, "", "The intervals are one by one: of twenty rows, one leaves zero out by chance."]


def _sources(study: Study, rows: Sequence[Row], path: Path) -> list[str]:
    """How each number was made, and the files that it is from."""
    last = study.steps[-1]
    first = StudyRun(study, next(iter(study.systems)), 0)
    picture, figures = path.with_suffix(".png").name, path.with_suffix(".json").name
    lines = [
        f"![Average@{study.samples} against training steps, for each system]({picture})",
        "",
        f"{last} steps of 32 rollouts. Average@{study.samples}: each seed's own evaluation of the last checkpoint,",
        "mean ± standard error over seeds. Differences: by seed (same first adapter, same order of problems), with",
        "Student's t. Seconds: the median step of the fastest seed; two runs share the machine.",
        f"Every figure of every run, with its file, is in [`{figures}`]({figures}).",
        "",
        "| system | options of `phf train` | runs | accuracy from | time, memory from |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["system"]
        run = StudyRun(study, None if name == "base" else name, 0)
        options = "" if name == "base" else f"`{' '.join(study.systems[name].options)}`"
        seeds = ",".join(map(str, row["seeds"]))
        place = f"`{study.folder}/{name}-seed{{{seeds}}}`"
        accuracy = f"`{run.summary(0 if name == 'base' else last).relative_to(run.folder)}`"
        lines.append(
            f"| {row['title']} | {options} | {place} | {accuracy} | {'' if name == 'base' else '`metrics.jsonl`'} |"
        )
    earlier = ", ".join(f"`{first.summary(step).parent.name}`" for step in study.steps[:-1])
    return [*lines, *(["", f"The earlier points of the picture: {earlier}."] if earlier else [])]


def _with_error(figure: dict[str, Any], sign: str = "") -> str:
    error = "" if figure["stderr"] is None else f" ± {100 * figure['stderr']:.1f}"
    return f"{100 * figure['mean']:{sign}.1f}{error}"
