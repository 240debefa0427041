"""`kdcore recipe`: the comparisons that come with kdcore, as files to read and to change."""

from typing import Annotated

import typer

EXAMPLE = "Example: kdcore recipe strong"


def command(
    name: Annotated[
        str | None, typer.Argument(help="Which; the recipes are listed if not given.")
    ] = None,
) -> None:
    """Print a recipe as it is, for a file of one's own, or list the recipes.

    What is printed is an experiment file: kdcore compare mine.toml.
    """
    from kdcore import configfile

    if name is not None:
        typer.echo(configfile.recipe_text(name), nl=False)
        return
    for each in configfile.recipes():
        typer.echo(f"{each}: {configfile.summary_of(configfile.recipe_text(each))}")
