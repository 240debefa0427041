"""`kdcore cache`: what teachers said, kept on disk."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcore.cli import options

EXAMPLE = "Example: kdcore cache build experiment.toml"

app = typer.Typer(
    help="Show, remove or compute ahead what teachers say of images.", no_args_is_help=True
)

Folder = Annotated[Path | None, typer.Option(help="Their folder; kdcore's own if not given.")]


def _store(folder: Path | None) -> Any:
    from kdcore.cache import open_store
    from kdcore.sections import CacheConfig

    return open_store(CacheConfig(folder=folder))


@app.command(name="list", epilog="Example: kdcore cache list")
def list_command(
    folder: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List what is kept, longest unused first."""
    store = _store(folder)
    entries = store.entries()
    if as_json:
        listed = [
            {
                "key": entry.key,
                "bytes": entry.nbytes,
                "last_used": entry.last_used.isoformat(),
                "facts": entry.facts,
            }
            for entry in entries
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    from kdcore.catalog import printable
    from kdcore.files import size_text
    from kdcore.teachers import TEACHER, title_of

    for entry in entries:
        facts = entry.facts
        age = (datetime.now(UTC) - entry.last_used).days
        name, model = facts.get("name", TEACHER), facts.get("model", "?")
        whose = model if name == TEACHER else f"{model}, {title_of(name)},"
        what = f"{whose} on {facts.get('images', '?')}, {facts.get('views')} views"
        arrays = ", ".join(facts.get("arrays", ()))
        size = size_text(entry.nbytes)
        typer.echo(printable(f"{entry.key[:12]}  {size}  {what}; used {age} days ago: {arrays}"))
    total = sum(entry.nbytes for entry in entries)
    typer.echo(f"{len(entries)} in {store.folder}, {size_text(total)}")


@app.command(name="clear", epilog="Example: kdcore cache clear")
def clear_command(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys, or how they begin; all if none is given.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Remove what is kept, all of it or some."""
    from kdcore.errors import UserError
    from kdcore.files import size_text

    store = _store(folder)
    chosen = None
    if keys:
        known = [entry.key for entry in store.entries()]
        chosen = [key for key in known if key.startswith(tuple(keys))]
        if missing := [begin for begin in keys if not any(k.startswith(begin) for k in known)]:
            raise UserError(f"nothing is kept by the key {missing[0]!r}; see kdcore cache list")
    freed = store.clear(chosen)
    typer.echo(f"removed {size_text(freed)} from {store.folder}")


@app.command(name="build", epilog=EXAMPLE)
def build_command(
    file: Annotated[Path, typer.Argument(help="A run or a comparison as a TOML file.")],
    assignments: options.Set = None,
    device: options.Device = None,
    folder: Folder = None,
    out: Annotated[Path | None, typer.Option(help="Folder of a teacher that is trained.")] = None,
) -> None:
    """Have the teachers of an experiment say ahead of training all that its students want."""
    from kdcore import configfile

    tree = configfile.read_file(file)
    options.assign(tree, {"device": device, "cache.folder": folder, "cache.mode": "disk"})
    configfile.override(tree, assignments or [])
    compared = "candidates" in tree
    config = (configfile.as_comparison if compared else configfile.as_run)(tree, str(file))
    if config.cache.mode in ("off", "memory"):
        from kdcore.errors import ConfigError

        raise ConfigError(
            f"cache.mode = {config.cache.mode!r} writes nothing: leave it out, or say 'disk'"
        )
    options.announce_imports(*config.imports)

    from rich.console import Console

    from kdcore.context import RunContext
    from kdcore.experiment import ComparisonConfig
    from kdcore.teacher_runs import keep_answers

    console = Console(highlight=False, emoji=False)
    context = RunContext(config, out or options.OUT / file.stem, console)
    seeds = config.seeds if isinstance(config, ComparisonConfig) else (config.seed,)
    for seed in seeds:
        keep_answers(context, seed)
