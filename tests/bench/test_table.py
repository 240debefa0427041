"""The lines that people read."""

from rich.console import Console

from kdcore.bench.measure import Result
from kdcore.bench.table import describe, terminal_table
from kdcore.bench.work import Settings


def test_a_line_has_the_median_between_its_ends() -> None:
    console = Console(width=100, record=True, quiet=False)
    with console.capture() as capture:
        console.print(terminal_table([Result("case", "a [b]", "×", [14.26, 12.0, 2000.4])]))
    (line,) = [line for line in capture.get().splitlines() if "case" in line and "a [b]" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["case", "a [b]", "14.3", "12", "2,000", "×"]


def test_what_is_not_known_of_a_machine_is_left_out() -> None:
    machine = {"processor": "Some CPU", "instructions": ["avx2", "amx_bf16"], "accelerator": None}
    first, second = describe(machine, Settings(size=5)).splitlines()
    assert first == "processor Some CPU, instructions avx2 amx_bf16"
    assert second == "size 5, epochs 10, repeats 3, precision 32, device cpu"
