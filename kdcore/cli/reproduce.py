"""`kdcore reproduce`: the documentation's tables, made again."""

from pathlib import Path
from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore reproduce strong --data folder --root cifar10-jpeg"


def command(
    table: Annotated[
        str | None, typer.Argument(help="Which; the tables are listed if not given.")
    ] = None,
    root: options.Root = None,
    data: options.DataName = None,
    short: Annotated[
        bool, typer.Option("--short", help="Few images, steps and seeds: see that it works.")
    ] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Only the student alone, which needs no teacher.")
    ] = False,
    teacher: options.TeacherFile = None,
    teacher_cache: options.TeacherCache = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all files.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write the table here, as the documentation reads it.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a table of the documentation again, with its recipe, seeds and settings.

    What was finished before is kept: the same command continues.
    """
    from kdcore import tables

    if table is None:
        for name, each in tables.TABLES.items():
            needs = "; needs --root" if each.images else ""
            changed = "".join(f", {key}" for key in each.settings)
            typer.echo(f"{name}: {each.title} (recipe {each.recipe}{changed}{needs})")
        return
    options.check_file("--save", save)
    images = tables.Images(root, data)
    config = tables.experiment_of(table, images, short=short, cache=teacher_cache, teacher=teacher)

    from rich.console import Console

    from kdcore import joblist, report
    from kdcore.comparison import COMPARISON
    from kdcore.files import write_json
    from kdcore.measured import record_of
    from kdcore.session import Session

    folder = out or options.OUT / (f"{table}-short" if short else table)
    session = Session(folder, quiet, command=True)
    by_itself = [student for student in joblist.students(config) if student.alone]
    done = session.compare(config, table, by_itself if alone else None)
    if not done.first:
        return
    description = (folder / COMPARISON).read_bytes()
    joined = joblist.join(folder, description, config)
    record = record_of(table, config, joined)
    if save is not None:
        write_json(save, record)
    console = Console(highlight=False, emoji=False)
    report.print_table(console, joined.results)
    minutes = record["seconds"] / 60
    lines = [f"{minutes:.1f} minutes of training on {record['machine']}", f"in {folder}"]
    if joined.missing:
        count = len(joined.missing)
        lines.insert(0, f"left out: {count} students; the same command without --alone adds them")
    if short:
        lines.append("a short form shows that the table can be made; its numbers say nothing")
    if save is not None:
        lines.append(f"saved: {save}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
