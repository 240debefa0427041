"""`kdcore strategies`: what is installed, read from metadata; and one method's settings."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcore.cli import options

if TYPE_CHECKING:
    from kdcore.catalog import Catalog, Listing

EXAMPLE = "Example: kdcore strategies fitnets"


def command(
    name: Annotated[str | None, typer.Argument(help="Show this one's settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    importing: Annotated[
        bool, typer.Option("--import", help="Import each, which runs its code, to see if it works.")
    ] = False,
    no_strategy: options.NoStrategy = None,
) -> None:
    """List the installed strategies without importing any, or show the settings of one."""
    from kdcore.catalog import Catalog

    catalog = Catalog(blocked=no_strategy or ())
    if name is None:
        _list(catalog, as_json, importing)
    else:
        _show(catalog, name, as_json)


def _list(catalog: "Catalog", as_json: bool, importing: bool) -> None:
    listings = catalog.listings()
    if importing:
        listings = [_tried(catalog, listing) for listing in listings]
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {
                        "name": listing.name,
                        "distribution": listing.origin.distribution,
                        "version": listing.origin.version,
                        "summary": listing.summary,
                        "target": listing.target,
                        "needs": listing.needs,
                        "state": listing.problem or "ok",
                    }
                    for listing in listings
                ],
                indent=2,
            )
        )
        return
    if not listings:
        typer.echo("no strategy is installed; the tutorial's: pip install kdcore-logits")
        return
    # Plain text: a listing that imports no method should not wait for a library of tables.
    lines = [("name", "distribution", "needs", "state", "summary")]
    lines += [
        (each.name, str(each.origin), each.needs, each.problem or "ok", each.summary)
        for each in listings
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo("  ".join([*cells, line[4]]).rstrip())
    if not importing:
        typer.echo("a strategy is code: it is imported when it is selected, not before")


def _tried(catalog: "Catalog", listing: "Listing") -> "Listing":
    """Return a listing with what is wrong with it once it is imported."""
    from kdcore.errors import CatalogError
    from kdcore.selection import load_strategy

    if listing.problem:
        return listing
    try:
        load_strategy(f"{listing.origin.distribution}:{listing.name}", catalog)
    except CatalogError as error:
        return replace(listing, problem=f"broken: {error}")
    return listing


def _show(catalog: "Catalog", name: str, as_json: bool) -> None:
    from kdcore.selection import load_strategy

    strategy, origin = load_strategy(name, catalog)
    fields = strategy.Settings.model_json_schema()["properties"]
    recommended = strategy.recommended
    if as_json:
        shown = {"name": name, "origin": str(origin), "settings": fields}
        shown["weight"] = recommended.weight
        shown["task_weight"] = recommended.task_weight
        shown["source"] = recommended.source
        typer.echo(json.dumps(shown, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    summary = (strategy.__doc__ or "").strip().splitlines()
    console.print(f"[bold]{escape(name)}[/] ({escape(str(origin))})")
    if summary:
        console.print(summary[0], markup=False)
    console.print(
        f"weight {recommended.weight:g}, task weight {recommended.task_weight:g} "
        f"({recommended.source})",
        markup=False,
    )
    table = Table("setting", "type", "default", "meaning", pad_edge=False)
    for key, field in fields.items():
        table.add_row(
            *map(escape, (key, _kind(field), _default(field), field.get("description", "")))
        )
    console.print(table)


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    kind = " or ".join(map(str, field["enum"])) if "enum" in field else str(field.get("type", ""))
    bounds = {
        "exclusiveMinimum": ">",
        "minimum": ">=",
        "exclusiveMaximum": "<",
        "maximum": "<=",
    }
    limits = [f"{sign} {field[key]}" for key, sign in bounds.items() if key in field]
    return ", ".join([kind, *limits])


def _default(field: dict[str, Any]) -> str:
    return str(field["default"]) if "default" in field else "required"
