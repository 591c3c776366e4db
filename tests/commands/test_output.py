"""Tables are never cut: pictures in them go first, then a table runs over."""

import io

from rich.console import Console

from phfcli.commands.output import print_table, warn


def lines(width: int, *cells: str) -> str:
    out = Console(file=io.StringIO(), width=width, emoji=False)
    print_table(out, "title", ("name", "", "share", "value"), [cells], first_to_go=("",))
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_picture_goes_before_a_number_is_cut() -> None:
    shown = lines(30, "layer", "█████████████", "0.03421", "12.5 ± 0.3")
    assert "█" not in shown
    assert "0.03421" in shown
    assert "12.5 ± 0.3" in shown


def test_all_is_there_where_it_fits() -> None:
    assert "█████████████" in lines(80, "layer", "█████████████", "0.03421", "12.5 ± 0.3")


def test_a_table_that_does_not_fit_runs_over() -> None:
    shown = lines(20, "Qwen/Qwen3-4B-Thinking", "", "0.03421", "12.5 ± 0.3")
    assert "Qwen/Qwen3-4B-Thinking" in shown
    assert "…" not in shown


def test_a_name_with_colons_is_no_emoji() -> None:
    assert ":train:" in lines(80, "gsm8k:train:x", "", "1", "2")


def test_a_warning_goes_through_the_console_that_draws() -> None:
    live = Console(file=io.StringIO(), width=80)
    warn("the clip takes most", live)
    assert "warning: the clip takes most" in live.file.getvalue()  # type: ignore[attr-defined]
