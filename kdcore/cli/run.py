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
    options.check_export(config)

    from rich.console import Console

    from kdcore import report
    from kdcore.catalog import Catalog
    from kdcore.comparison import about, data_line, rehearse
    from kdcore.context import Resume, RunContext
    from kdcore.faculty import run_teachers, teacher_rows
    from kdcore.files import write_json
    from kdcore.interruption import Interruption
    from kdcore.job import CONFIG, STUDENT, STUDENT_WEIGHTS, begun_in
    from kdcore.processes import joined
    from kdcore.run import run_student
    from kdcore.shipping import choice

    name = config.name or STUDENT
    if resume is not None:
        name = begun_in(resume)["name"]
        out = out or resume.absolute().parent
    interruption = Interruption()
    with interruption.listening(), joined(config.processes.timeout) as processes:
        console = Console(quiet=quiet or not processes.first, highlight=False, emoji=False)
        context = RunContext(
            config,
            out or options.OUT / file.stem,
            console,
            Catalog(blocked=no_strategy or ()),
            resume=None if resume is None else Resume(resume.absolute(), resume_exact),
            interruption=interruption,
            repeats=file.parent if file.name == CONFIG and resume is None else None,
        )
        taught = any(config.strategy_lists)
        models = context.new_teachers(config.seed) if taught else {}
        lines = rehearse(context, config.seed, models, config.plan)
        for line in (data_line(context), *context.data.notes, *lines):
            console.print(line, markup=False, soft_wrap=True)
        teachers = run_teachers(context, config.seed) if taught else {}
        results = teacher_rows(context, config.seed, teachers)
        result = run_student(context, config.seed, name, config.plan, teachers)
    if not processes.first:
        return
    results.append(result)
    shipped = choice.attempt(config, results, context.note)
    folder = Path(result.folder)
    report.write_report(folder, f"kdcore run: {name}", about(context, CONFIG), results)
    if json_file is not None:
        write_json(json_file, report.as_json(results))
    console.quiet = False
    report.print_table(console, results)
    console.print(f"student: {folder / STUDENT_WEIGHTS}", soft_wrap=True)
    console.print(f"report: {folder / report.PAGE}", soft_wrap=True)
    shipped.tell(lambda line: console.print(line, markup=False, soft_wrap=True))
