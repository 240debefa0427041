"""`kdcore report`: the report of a comparison from what there is of it."""

from pathlib import Path
from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore report kdcore-runs/experiment"


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")],
    json_file: options.Json = None,
) -> None:
    """Put together what the students of a comparison came to, wherever they were trained."""
    from kdcore import configfile
    from kdcore.comparison import COMPARISON
    from kdcore.errors import UserError

    file = folder / COMPARISON
    if not file.is_file():
        raise UserError(f"{folder} is no folder of a comparison: it has no {COMPARISON}")
    config = configfile.as_comparison(configfile.read_file(file), str(file))
    options.check_json(json_file)

    from rich.console import Console

    from kdcore import joblist, report
    from kdcore.files import write_json

    console = Console(highlight=False, emoji=False)
    found = joblist.join(folder, file.read_bytes(), config)
    report.write_report(folder, f"kdcore compare: {folder.name}", found.about, found.results)
    if json_file is not None:
        write_json(json_file, report.as_json(found.results))
    report.print_table(console, found.results)
    for student in found.missing:
        console.print(
            f"missing: {student.name}, seed {student.seed} (--only {student.number})",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"report: {folder / 'report.md'}", soft_wrap=True)
