"""`kdcore compare`: the main job."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcore.cli import options

if TYPE_CHECKING:
    from kdcore.experiment import ComparisonConfig

ALL = "all"
"""What stands for every strategy that is installed."""

RECIPES_DATA = "digits"
"""The data of the recipes that nobody needs to name."""

EXAMPLE = (
    "Example: kdcore compare --data folder --root photos --strategies logits,logits+fitnets "
    "--seeds 42,43,44"
)


def command(
    file: Annotated[Path | None, typer.Argument(help="A comparison as a TOML file.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A comparison that comes with kdcore: demo, tutorial, strong, few-labels, crd."
        ),
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="Candidates: names, with , between and + within them; or all."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds with commas: 42,43,44.")] = None,
    data: options.DataName = None,
    root: options.Root = None,
    labels: options.Labels = None,
    limit: options.Limit = None,
    validation: options.Validation = None,
    group_by: options.GroupBy = None,
    skip_unreadable: options.SkipUnreadable = False,
    teacher: options.TeacherFile = None,
    teacher_model: options.TeacherModel = None,
    teacher_pretrained: options.TeacherPretrained = False,
    teacher_fit: options.TeacherFit = None,
    student_model: options.StudentModel = None,
    student_pretrained: options.StudentPretrained = False,
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.Lr = None,
    select: options.Select = None,
    export: options.Export = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    augment_views: options.AugmentViews = None,
    teacher_cache: options.TeacherCache = None,
    teacher_cache_dtype: options.TeacherCacheDtype = None,
    workers: options.Workers = None,
    assignments: options.Set = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Number the students of the comparison, and train none.")
    ] = False,
    only: Annotated[
        int | None,
        typer.Option(help="Train the student of this number alone; kdcore report joins them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all files.")] = None,
    json_file: options.Json = None,
    no_strategy: options.NoStrategy = None,
    tensorboard: options.Tensorboard = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a teacher, the student alone and with each candidate from equal starts, and compare.

    Without arguments: the tutorial's models and methods on handwritten digits with few labels
    (recipe demo). With other data: the same with all labels (recipe tutorial).
    """
    from kdcore import configfile
    from kdcore.errors import ConfigError, ModelError, StrategyError, TapError

    if file is not None and recipe is not None:
        raise ConfigError("give a file or --recipe, not both")
    # The demo takes labels away, which nobody expects of images of their own.
    default = "demo" if data in (None, RECIPES_DATA) else "tutorial"
    name = file.stem if file else recipe or default
    tree = configfile.read_file(file) if file else configfile.read_recipe(name)
    if strategies == ALL:
        # Each with its own weights and settings, whatever the file has for some of them.
        tree["candidates"] = configfile.candidates_for({}, ",".join(_usable(no_strategy or ())))
    elif strategies is not None:
        tree["candidates"] = configfile.candidates_for(tree, strategies)
    how = options.engine(
        device, precision, compiled, augment_views, teacher_cache, teacher_cache_dtype, workers
    )
    options.refuse_where_several_teach(
        tree,
        {
            "--teacher": ("weights", teacher),
            "--teacher-model": ("model", teacher_model),
            "--teacher-pretrained": ("pretrained", teacher_pretrained or None),
            "--teacher-fit": ("fit.mode", teacher_fit),
            "--image-size": ("image_size", image_size),
        },
    )
    options.assign(
        tree,
        {
            "seeds": None if seeds is None else options.seed_list(seeds),
            "data.name": data,
            "data.root": root,
            "data.labels": labels,
            "data.limit": limit,
            "data.validation": validation,
            "data.group_by": group_by,
            "data.skip_unreadable": skip_unreadable or None,
            "teacher.weights": teacher,
            "teacher.model": teacher_model,
            "teacher.pretrained": teacher_pretrained or None,
            "teacher.fit.mode": teacher_fit,
            "student.model": student_model,
            "student.pretrained": student_pretrained or None,
            "teacher.image_size": image_size,
            "student.image_size": image_size,
            "train.epochs": epochs,
            "train.batch_size": batch_size,
            "train.lr": lr,
            "task.select": select,
            "log.tensorboard": tensorboard or None,
            **options.export_keys(export),
            **how,
        },
    )
    # A budget that is typed is everybody's, also where a recipe has one for its teacher.
    typed = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    for section, own in configfile.teacher_trainings(tree):
        options.assign(tree, {f"{section}.{key}": typed[key] for key in typed if key in own})
    configfile.override(tree, assignments or [])
    config = configfile.as_comparison(tree, str(file) if file else f"recipe {name}")
    options.check_json(json_file)
    options.announce_imports(*config.imports)

    if listed:
        _list(config, json_file)
        return

    from rich.console import Console

    from kdcore import joblist, report
    from kdcore.files import write_json
    from kdcore.session import Session

    student = None if only is None else joblist.numbered(config, only)
    title = options.folder_name(name, config)
    if file is None and recipe is None and config.data.name != RECIPES_DATA:
        title = options.data_name(config)  # nobody has named the recipe
    folder = out or options.OUT / title
    session = Session(folder, quiet, no_strategy or (), command=True)
    try:
        done = session.compare(config, title, None if student is None else [student])
    except (StrategyError, TapError, ModelError) as error:
        if strategies != ALL:
            raise
        # Not every method goes with all models and data.
        raise type(error)(f"{error}; --no-strategy NAME leaves a method out") from error
    if not done.first:
        return
    if json_file is not None:
        write_json(json_file, report.as_json(done.results))
    console = Console(highlight=False, emoji=False)
    report.print_table(console, done.results)
    page = f"report: {done.folder / report.PAGE}"
    alone = f"report: kdcore report {done.folder}"
    console.print(page if student is None else alone, soft_wrap=True)
    done.shipped.tell(lambda line: console.print(line, markup=False, soft_wrap=True))


def _usable(blocked: Collection[str]) -> list[str]:
    """Return the names of all strategies that are installed; say which of them cannot be used."""
    from kdcore.catalog import Catalog
    from kdcore.errors import CatalogError

    catalog = Catalog(blocked=blocked)
    for each in catalog.listings():
        if each.problem:
            typer.echo(f"left out: {each.name}, {each.problem}", err=True)
    names = catalog.usable()
    if not names:
        raise CatalogError(f"--strategies {ALL}: there are none to compare")
    return names


def _list(config: "ComparisonConfig", json_file: Path | None) -> None:
    """Print the students of a comparison by number, and write them down for programs."""
    from kdcore.files import write_json
    from kdcore.joblist import students

    found = students(config)
    for each in found:
        typer.echo(f"{each.number}  seed {each.seed}  {each.name}")
    if json_file is not None:
        told = [{"number": e.number, "seed": e.seed, "name": e.name} for e in found]
        write_json(json_file, {"students": told})
