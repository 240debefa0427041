"""`kdcore bench`: how fast kdcore is on this machine."""

from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore bench --only distil,bound --json bench.json"


def command(
    size: Annotated[int, typer.Option(min=2, help="Training images.")] = 2000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds that are counted; one more goes before them.")
    ] = 3,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Cases: distil, comparison, bound, overhead, cache, data, startup; methods, if "
            "named.",
        ),
    ] = None,
    precision: options.Precision = None,
    device: options.Device = None,
    json_file: options.Json = None,
) -> None:
    """Measure kdcore against the tutorial's loops and the tightest loops, on this machine.

    Contenders take turns in one process, so that ratios hold where seconds do not.
    """
    from kdcore.bench import cases, table
    from kdcore.bench.work import Settings

    names = cases.chosen(None if only is None else [name.strip() for name in only.split(",")])
    options.check_json(json_file)
    settings = Settings(size, epochs, repeats, precision or "32", device or "auto")

    from rich.console import Console

    from kdcore.files import write_json

    console = Console(highlight=False, emoji=False)
    cases.check(settings)
    machine = cases.machine(settings)
    console.print(table.describe(machine, settings), soft_wrap=True, markup=False)
    results = []
    for name in names:
        console.print(f"measuring {name}")
        results += cases.CASES[name](settings)
    if json_file is not None:
        write_json(json_file, cases.as_json(machine, settings, results))
    console.print(table.terminal_table(results))
