"""`kdcore layers`: the taps of a model, with the shape that each yields."""

import json
from typing import Annotated

import typer

EXAMPLE = "Example: kdcore layers torchvision/resnet18 --image-size 224"


def command(
    model: Annotated[str, typer.Argument(help="A model's name, as in an experiment.")],
    classes: Annotated[int, typer.Option(help="How many classes it has.", min=1)] = 10,
    image_size: Annotated[int, typer.Option(help="Side of its images in pixels.", min=1)] = 32,
    depth: Annotated[int | None, typer.Option(help="Show names of so many parts.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Run a model once and list its modules: shapes, parameters, and what `auto` would tap."""
    from kdcore.cli.options import announce_imports

    announce_imports(model)
    import torch

    from kdcore.automatic import find
    from kdcore.errors import TapError
    from kdcore.models.build import build_model
    from kdcore.probe import trace
    from kdcore.sections import ModelConfig
    from kdcore.taps import AUTO_KINDS

    built = build_model(ModelConfig(model=model), classes, image_size, "model")
    traced = trace(built, torch.zeros(2, 3, image_size, image_size), "model")
    automatic: dict[str, list[str]] = {}
    marks: dict[str, list[str]] = {}
    for kind in AUTO_KINDS:
        try:
            found = find(kind, traced)
        except TapError as error:
            automatic[kind] = [f"none: {error}"]
            continue
        automatic[kind] = [str(tap) for tap in found]
        for tap in found:
            side = " of its input" if tap.side == "input" else ""
            marks.setdefault(tap.module, []).append(f"{kind}{side}")
    rows = [
        {
            "tap": call.name,
            "type": type(call.module).__name__,
            "shape": None if call.output is None else list(call.output.shape[1:]),
            "parameters": sum(parameter.numel() for parameter in call.module.parameters()),
            "auto": ", ".join(marks.get(call.name, [])),
        }
        for call in sorted(traced.calls, key=lambda c: _order(c.name, built))
        if depth is None or call.name.count(".") < depth
    ]
    if as_json:
        shown = {"taps": rows, "auto": automatic, "run_twice": list(traced.repeated)}
        typer.echo(json.dumps(shown, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("tap", "type", "output", "parameters", "auto", pad_edge=False)
    table.columns[3].justify = "right"
    for row in rows:
        cells = [row["tap"], row["type"], row["shape"] or "no tensor", f"{row['parameters']:,}"]
        table.add_row(*(escape(str(cell)) for cell in (*cells, row["auto"])))
    console.print(table)
    console.print("MODULE:input taps what a module is given, MODULE what it returns")
    for kind, found_taps in automatic.items():
        console.print(f"auto:{kind} = {', '.join(found_taps)}", markup=False, soft_wrap=True)
    if traced.repeated:
        repeated = ", ".join(traced.repeated)
        console.print(f"run more than once, no taps: {repeated}", markup=False, soft_wrap=True)


def _order(name: str, model: object) -> int:
    from torch import nn

    assert isinstance(model, nn.Module)
    return [known for known, _ in model.named_modules()].index(name)
