"""`kdcore new-strategy`: the package of a strategy of one's own, from templates."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: kdcore new-strategy my-method --dir methods"


def command(
    name: Annotated[str, typer.Argument(help="What users will select it by, such as my-method.")],
    folder: Annotated[
        Path, typer.Option("--dir", help="The folder in which the package's own is made.")
    ] = Path(),
) -> None:
    """Write the package of a new strategy, which works, is tested and can be installed."""
    from kdcore.scaffold import write_package

    made = write_package(name, folder)
    typer.echo(f"written: {made.folder}")
    typer.echo(f"the method is in {made.module}; replace what it compares by your own,")
    typer.echo(
        "and each TODO: there, in pyproject.toml and in README.md, or kdcore check fails; then"
    )
    typer.echo(f"  pip install -e '{made.folder}[test]'   (or uv pip install, as it is made)")
    typer.echo(f"  kdcore check {name}")
    typer.echo(f"  kdcore compare --strategies {name}")
    typer.echo(f"  pytest {made.folder}")
