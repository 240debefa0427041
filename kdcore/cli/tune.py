"""`kdcore tune`: search for settings on the validation split."""

from pathlib import Path
from typing import Annotated

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore tune experiment.toml --trials 30 --write tuned.toml"

TUNED = "tuned.toml"


def command(
    file: Annotated[Path, typer.Argument(help="A comparison as a TOML file.")],
    trials: Annotated[int, typer.Option(help="Trials of each candidate.", min=1)] = 20,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of trials with commas; none that the file reports.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=LOW:HIGH[:log]",
            help="Search between these: candidates.LABEL.strategies.NAME.KEY, "
            "candidates.LABEL.task_weight or train.lr.",
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="File for what was found; in the folder if not given.")
    ] = None,
    assignments: options.Set = None,
    device: options.Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all files.")] = None,
    no_strategy: options.NoStrategy = None,
    quiet: options.Quiet = False,
) -> None:
    """Search weights, temperatures, taps and learning rates of every candidate.

    Each candidate, the student alone among them, gets equally many trials, the first with the
    file's own settings. They are judged on the validation split, on other seeds than those that
    are reported. The same command goes on where it was stopped. What was found is a comparison:
    run it with kdcore compare.
    """
    from kdcore import configfile, tuning
    from kdcore.errors import ConfigError
    from kdcore.processes import started_together
    from kdcore.trials import check_installed

    check_installed()
    if started_together():
        raise ConfigError("kdcore tune is one process: start it without torchrun")
    tree = configfile.read_file(file)
    options.assign(tree, {"device": device})
    configfile.override(tree, assignments or [])
    config = configfile.as_comparison(tree, str(file))
    tuning.check_searchable(config)
    chosen = tuning.tuning_seeds(config, None if seeds is None else options.seed_list(seeds))
    ranges = dict(map(_range, search or []))
    options.announce_imports(*config.imports)

    from rich.console import Console

    from kdcore.catalog import Catalog
    from kdcore.context import RunContext
    from kdcore.files import write_bytes
    from kdcore.interruption import Interruption

    folder = out or options.OUT / f"tune-{options.folder_name(file.stem, config)}"
    interruption = Interruption()
    with interruption.listening():
        console = Console(quiet=quiet, highlight=False, emoji=False)
        context = RunContext(
            config, folder, console, Catalog(blocked=no_strategy or ()), interruption=interruption
        )
        found = tuning.Search(context, config, chosen, ranges)
        listed = ", ".join(map(str, chosen))
        console.print(f"searched on the validation split, seed {listed}:")
        for line in found.describe():
            context.note(line)
        tuned = found.run(trials)
    target = write or context.out / TUNED
    write_bytes(target, configfile.as_toml(tuning.best_of(config, tuned)).encode())
    console.quiet = False
    for each in tuned:
        before, best = each.trials[0].score, each.best.score
        assert best is not None
        was = "none" if before is None else f"{before:{found.metric.form}}"
        line = f"{tuning.title(each.label)}: validation {found.metric.text(best)}, {was} as it was"
        console.print(line, markup=False, soft_wrap=True)
        for change in found.changes(each):
            console.print(f"  {change}", markup=False, soft_wrap=True)
    console.print(f"all trials: {context.out / tuning.TRIALS}", markup=False, soft_wrap=True)
    console.print(f"what was found: kdcore compare {target}", markup=False, soft_wrap=True)


def _range(text: str) -> tuple[str, tuple[float, float, bool]]:
    from kdcore.errors import ConfigError

    path, _, given = text.partition("=")
    low, _, rest = given.partition(":")
    high, _, scale = rest.partition(":")
    try:
        if not path.strip() or scale not in ("", "log"):
            raise ValueError
        return path.strip(), (float(low), float(high), scale == "log")
    except ValueError:
        raise ConfigError(f"--search {text}: expected PATH=LOW:HIGH or PATH=LOW:HIGH:log") from None
