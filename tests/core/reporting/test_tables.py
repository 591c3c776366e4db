"""Tables for other programs: text stays text in each of them."""

import csv
from pathlib import Path

from phfcli.core.reporting.tables import ResultTable, as_latex, as_markdown, write_records

HOSTILE = ResultTable(
    "a_b | c", ["x & y", "50%"], [["<b>|*", "1 ± 2"], ["[x]", "2"], ["line\nbreak\\", "-0.5"]], ["x & y"]
)


def test_markdown() -> None:
    assert as_markdown(HOSTILE).splitlines() == [
        r"**a\_b \| c**",
        "",
        "| x &amp; y | 50% |",
        "| --- | --- |",
        r"| &lt;b>\|\* | 1 ± 2 |",
        r"| \[x\] | 2 |",
        r"| line break\\ | -0.5 |",
    ]


def test_latex() -> None:
    assert as_latex(HOSTILE).splitlines() == [
        r"\begin{table}",
        r"\caption{a\_b | c}",
        r"\label{tab:results}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"x \& y & 50\% \\",
        r"\midrule",
        r"<b>|{*} & 1 $\pm$ 2 \\",
        r"{[}x] & 2 \\",
        r"line break\textbackslash{} & -0.5 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_csv(tmp_path: Path) -> None:
    write_records(tmp_path / "x.csv", [{"a": 'x,"\n', "b": None}, {"c": 0.1}])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": 'x,"\n', "b": "", "c": ""}, {"a": "", "b": "", "c": "0.1"}]


def test_latex_has_the_best_score_bold_and_errors_small() -> None:
    rows = [["base", "57.4 ± 2.4", "+1.0 ± 2.0"], ["phf", "74.8 ± 3.5", "+9.0 ± 2.0"], ["sft", "-", "-"]]
    lines = as_latex(
        ResultTable("t", ["method", "aime", "points"], rows, ["method"]), "tab:main", ranked=True
    ).splitlines()
    assert lines[2] == r"\label{tab:main}"
    assert lines[7:10] == [
        r"base & 57.4 {\scriptsize $\pm$ 2.4} & +1.0 $\pm$ 2.0 \\",
        r"phf & \textbf{74.8} {\scriptsize $\pm$ 3.5} & +9.0 $\pm$ 2.0 \\",
        r"sft & - & - \\",
    ]


def test_latex_has_nothing_bold_where_rows_are_no_rivals() -> None:
    rows = [["easy", "80.0 ± 2.0"], ["hard", "9.0 ± 1.0"]]
    assert "textbf" not in as_latex(ResultTable("t", ["bench", "Average@n"], rows, ["bench"]))
