"""`kdcore strategies`: what is installed, read from metadata; and one method's settings."""

import json
from typing import Annotated, Any

import typer

EXAMPLE = "Example: kdcore strategies fitnets"


def command(
    name: Annotated[str | None, typer.Argument(help="Show this one's settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the installed strategies without importing any, or show the settings of one."""
    if name is None:
        _list(as_json)
    else:
        _show(name, as_json)


def _list(as_json: bool) -> None:
    from kdcore.catalog import Catalog

    listings = Catalog().listings()
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
    lines = [("name", "distribution", "state", "summary")]
    lines += [
        (each.name, str(each.origin), each.problem or "ok", each.summary) for each in listings
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo("  ".join([*cells, line[3]]))
    typer.echo("a strategy is code: it is imported when it is selected, not before")


def _show(name: str, as_json: bool) -> None:
    from kdcore.catalog import Catalog
    from kdcore.selection import load_strategy

    strategy, origin = load_strategy(name, Catalog())
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
