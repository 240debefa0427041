"""`kdcore report`: the report of comparisons and runs from what there is of them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = (
    "Example: kdcore report kdcore-runs/experiment kdcore-runs/other --out both --csv both.csv"
)


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of comparisons, of runs, or of several."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; that of the one RUN if not given.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Also write the table here, as values.")
    ] = None,
    latex_file: Annotated[
        Path | None, typer.Option("--latex", help="Also write the table here, for LaTeX.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="Also hold the other candidates against this one, not only the student alone.",
        ),
    ] = None,
    json_file: options.Json = None,
) -> None:
    """Put together what students came to, wherever they were trained; one table of all folders."""
    from kdcore.errors import UserError

    files = {"--json": json_file, "--csv": csv_file, "--latex": latex_file}
    for option, file in files.items():
        options.check_file(option, file)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is no folder: give those of comparisons or runs")

    from rich.console import Console

    from kdcore import report
    from kdcore.files import make_folder, write_bytes, write_json

    console = Console(highlight=False, emoji=False)
    found = report.gather(folders)
    rivals = None if against is None else report.Rivals.of(found.sheet, against)
    written = out or (folders[0] if len(folders) == 1 else None)
    if written is not None:
        report.write_report(make_folder(written), found.title, found.about, found.sheet)
    if json_file is not None:
        told = report.as_json(found.sheet)
        if rivals is not None:
            told["against"] = asdict(rivals)
        write_json(json_file, told)
    if csv_file is not None:
        write_bytes(csv_file, report.csv_table(found.sheet).encode())
    if latex_file is not None:
        write_bytes(latex_file, report.latex_table(found.sheet).encode())
    report.print_table(console, found.sheet)
    if rivals is not None:
        report.print_whole(console, rivals.for_terminal())
    for student in found.missing:
        console.print(
            f"missing: {student.name}, seed {student.seed} (--only {student.number})",
            markup=False,
            soft_wrap=True,
        )
    page = f"report: {written / report.PAGE}" if written else "--out DIR writes their report"
    console.print(page, markup=False, soft_wrap=True)
