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
        typer.Option(metavar="PATH=LOW:HIGH[:log]", help="Search a setting between these."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Comparison with what was found; in the folder as default.")
    ] = None,
    assignments: options.Set = None,
    device: options.Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all files.")] = None,
    no_strategy: options.NoStrategy = None,
    quiet: options.Quiet = False,
) -> None:
    """Search weights, temperatures, taps and learning rates of every candidate.

    Each candidate, the student alone among them, gets equally many trials; they are judged on the
    validation split, with other seeds than those that are reported. The same command goes on where
    it was stopped. What was found is a comparison: run it with kdcore compare.
    """
    from kdcore import configfile, tuning
    from kdcore.errors import ConfigError

    tuning.check_installed()
    tree = configfile.read_file(file)
    options.assign(tree, {"device": device})
    configfile.override(tree, assignments or [])
    config = configfile.as_comparison(tree, str(file))
    tuning.check_searchable(config)
    ranges = dict(map(_range, search or []))
    try:
        given = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {seeds}: expected whole numbers with commas") from None
    chosen = tuning.tuning_seeds(config, given, 1)
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
        console.print("searching, on the validation split alone:")
        for line in found.describe():
            context.note(line)
        tuned = found.run(trials, context.out)
    target = write or context.out / TUNED
    write_bytes(target, configfile.as_toml(tuning.best_of(config, tuned)).encode())
    console.quiet = False
    for each in tuned:
        first, best = each.trials[0], each.best
        before = "–" if first.score is None else f"{first.score:.2f}"
        title = "student alone" if each.label == "student" else each.label
        line = f"{title}: validation {found.metric} {best.score:.2f}, {before} as it was"
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"trials: {context.out / tuning.TRIALS}", soft_wrap=True)
    console.print(f"what was found: kdcore compare {target}", soft_wrap=True)


def _range(text: str) -> tuple[str, tuple[float, float, bool]]:
    from kdcore.errors import ConfigError

    path, _, given = text.partition("=")
    parts = given.split(":")
    try:
        low, high = float(parts[0]), float(parts[1])
    except (ValueError, IndexError):
        parts = []
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
        raise ConfigError(f"--search {text}: expected PATH=LOW:HIGH or PATH=LOW:HIGH:log")
    return path.strip(), (low, high, len(parts) == 3)
