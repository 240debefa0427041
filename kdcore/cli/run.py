"""`kdcore run`: one student, from a file."""

from pathlib import Path
from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore run experiment.toml --set train.epochs=20"


def command(
    file: Annotated[Path | None, typer.Argument(help="The run as a TOML file.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run of this folder; its own settings without FILE."),
    ] = None,
    resume_exact: Annotated[
        bool, typer.Option("--resume-exact", help="Refuse where machine or versions differ.")
    ] = False,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    augment_views: options.AugmentViews = None,
    teacher_cache: options.TeacherCache = None,
    teacher_cache_dtype: options.TeacherCacheDtype = None,
    workers: options.Workers = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all files.")] = None,
    json_file: options.Json = None,
    no_strategy: options.NoStrategy = None,
    tensorboard: options.Tensorboard = False,
    quiet: options.Quiet = False,
) -> None:
    """Train one student with the strategies of a file, and its teacher first without weights."""
    from kdcore import configfile
    from kdcore.errors import ConfigError

    if resume_exact and resume is None:
        raise ConfigError("--resume-exact needs --resume FOLDER")
    if file is None:
        if resume is None:
            raise ConfigError("give a FILE, or --resume FOLDER")
        from kdcore.job import CONFIG as RESOLVED
        from kdcore.job import begun_in

        begun_in(resume)
        file = resume / RESOLVED
    tree = configfile.read_file(file)
    how = options.engine(
        device, precision, compiled, augment_views, teacher_cache, teacher_cache_dtype, workers
    )
    options.assign(tree, {**how, "log.tensorboard": tensorboard or None})
    configfile.override(tree, assignments or [])
    config = configfile.as_run(tree, str(file))
    options.check_json(json_file)
    options.announce_imports(*config.imports)

    from rich.console import Console

    from kdcore import report
    from kdcore.context import Resume
    from kdcore.files import write_json
    from kdcore.job import CONFIG, STUDENT_WEIGHTS, begun_in
    from kdcore.session import Session

    name, again = "", None
    if resume is not None:
        name, again = begun_in(resume)["name"], Resume(resume.absolute(), resume_exact)
        out = out or resume.absolute().parent
    session = Session(out or options.OUT / file.stem, quiet, no_strategy or (), command=True)
    repeats = file.parent if file.name == CONFIG and resume is None else None
    done = session.run(config, name, again, repeats)
    if not done.first:
        return
    if json_file is not None:
        write_json(json_file, report.as_json(done.results))
    console = Console(highlight=False, emoji=False)
    report.print_table(console, done.results)
    console.print(f"student: {done.folder / STUDENT_WEIGHTS}", soft_wrap=True)
    console.print(f"report: {done.folder / report.PAGE}", soft_wrap=True)
    done.shipped.tell(lambda line: console.print(line, markup=False, soft_wrap=True))
