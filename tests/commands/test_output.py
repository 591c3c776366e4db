"""Tables are never cut: pictures in them go first, then a table is printed in parts."""

import io

from rich.console import Console

from phfcli.commands.output import GLUE, print_table, say, warn


def lines(width: int, *cells: str) -> str:
    out = Console(file=io.StringIO(), width=width, emoji=False)
    print_table(out, "title", ("name", "", "share", "value"), [cells], text=("name", ""), first_to_go=("",))
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_picture_goes_before_a_number_is_cut() -> None:
    shown = lines(30, "layer", "█████████████", "0.03421", "12.5 ± 0.3")
    assert "█" not in shown
    assert "0.03421" in shown
    assert "12.5 ± 0.3" in shown


def test_all_is_there_where_it_fits() -> None:
    assert "█████████████" in lines(80, "layer", "█████████████", "0.03421", "12.5 ± 0.3")


def test_what_does_not_fit_comes_below_with_the_columns_that_tell_rows_apart() -> None:
    out = Console(file=io.StringIO(), width=40, emoji=False)
    columns = ("bench", "difference of", "points", "95 %", "p (Holm)")
    rows = [("aime24", name, "+1.25", "-0.5 to +3.0", "0.0412") for name in ("opsd - base", "phf - base")]
    print_table(out, "title", columns, rows, text=columns[:2])
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 40
    assert shown.count("title") == 1
    for name, *figures in ((row[1], *row[2:]) for row in rows):
        lines = [line for line in shown.splitlines() if name in line]
        assert len(lines) == 3
        assert all(line.split()[0] == "aime24" for line in lines)
        assert all(any(figure in line for line in lines) for figure in figures)


def test_columns_are_aligned_by_their_kind_whatever_their_cells_hold() -> None:
    file = io.StringIO()
    rows = [("7b-run", "", "-", "41.9"), ("1.7b", "██", "3", "7.0")]  # a name of digits, a bar below an empty cell
    print_table(Console(file=file, width=80), "", ("run", "", "count", "score"), rows, text=("run", ""))
    assert " 7b-run            -    41.9" in file.getvalue()
    assert " 1.7b     ██       3     7.0" in file.getvalue()


def test_a_cell_wider_than_the_terminal_runs_over() -> None:
    shown = lines(20, "Qwen/Qwen3-4B-Thinking", "", "0.03421", "12.5 ± 0.3")
    assert "Qwen/Qwen3-4B-Thinking" in shown
    assert "…" not in shown


def test_a_name_with_colons_is_no_emoji() -> None:
    assert ":train:" in lines(80, "gsm8k:train:x", "", "1", "2")


def test_a_warning_goes_through_the_console_that_draws() -> None:
    live = Console(file=io.StringIO(), width=80)
    warn("the clip takes most", live)
    assert "warning: the clip takes most" in live.file.getvalue()  # type: ignore[attr-defined]


def said(text: str, terminal: bool) -> list[str]:
    file = io.StringIO()
    say(Console(file=file, width=40, force_terminal=terminal, color_system=None), text)
    return file.getvalue().splitlines()


def test_a_terminal_gets_lines_that_break_between_words() -> None:
    text = "samples    64 samples of 38 / 43 / 45 tokens, 0 without an answer"
    assert said(text, terminal=False) == [text]
    shown = said(text, terminal=True)
    assert max(map(len, shown)) <= 40
    assert [line[:11] for line in shown[1:]] == [" " * 11] * (len(shown) - 1)
    assert " ".join(" ".join(shown).split()) == " ".join(text.split())


def test_a_path_and_a_figure_with_its_name_stay_whole() -> None:
    path = "runs/" + "a-long-name-" * 5
    assert said(f"run {path}", terminal=True) == ["run", path]
    figures = [f"loss{GLUE}0.{place}" for place in range(9)]
    shown = said("  ".join(figures), terminal=True)
    assert max(map(len, shown)) <= 40
    assert all(line.count("loss 0.") == line.count("loss") == line.count("0.") for line in shown)
