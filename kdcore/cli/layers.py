"""`kdcore layers`: the taps of a model, with the shape that each yields."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.tree import Tree

EXAMPLE = "Example: kdcore layers torchvision/resnet18"

WIDEST = 1000
WORDS = 16
"""Words of the two sentences that a model of text is tried on."""


def command(
    model: Annotated[str, typer.Argument(help="A model's name, as in an experiment.")],
    classes: Annotated[int, typer.Option(help="How many classes it has.", min=1)] = 10,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of its images in pixels; its own if not given, else 32 or 224.", min=1
        ),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Show names of so many parts.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Run a model once and show its modules as a tree: shapes, parameters, automatic taps.

    Below the tree: which taps auto chooses, and why, as lines to copy into an experiment.
    """
    from kdcore.cli.options import announce_imports

    announce_imports(model)

    from kdcore.automatic import find, why
    from kdcore.errors import TapError
    from kdcore.models.build import build_model
    from kdcore.probe import trace
    from kdcore.sections import ModelConfig
    from kdcore.taps import AUTO_KINDS

    given = _given(model, image_size)
    built = build_model(ModelConfig(model=model), classes, given, "model")
    traced = trace(built, _sample(given), "model")
    calls = {call.name: call for call in traced.calls}
    automatic: dict[str, dict[str, Any]] = {}
    marks: dict[str, list[str]] = {}
    for kind in AUTO_KINDS:
        try:
            found = find(kind, traced)
        except TapError as error:
            automatic[kind] = {"taps": [], "why": [f"none: {error}"]}
            continue
        shapes = []
        for tap in found:
            call = calls[tap.module]
            tensor = call.input if tap.side == "input" else call.output
            assert tensor is not None  # it was found by it
            shapes.append(list(tensor.shape[1:]))
            side = " of its input" if tap.side == "input" else ""
            marks.setdefault(tap.module, []).append(f"{kind}{side}")
        automatic[kind] = {
            "taps": [str(tap) for tap in found],
            "shapes": shapes,
            "why": [why(kind, shape) for shape in shapes],
        }
    order = [name for name, _ in built.named_modules()]
    rows = [
        {
            "tap": call.name,
            "type": type(call.module).__name__,
            "shape": None if call.output is None else list(call.output.shape[1:]),
            "parameters": sum(parameter.numel() for parameter in call.module.parameters()),
            "auto": ", ".join(marks.get(call.name, [])),
        }
        for call in sorted(traced.calls, key=lambda call: order.index(call.name))
        if depth is None or call.name.count(".") < depth
    ]
    if as_json:
        shown = {"taps": rows, "auto": automatic, "run_twice": list(traced.repeated)}
        typer.echo(json.dumps(shown, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    count = sum(parameter.numel() for parameter in built.parameters())
    tree = _tree(f"{model}  {type(built).__name__}, {count:,} parameters", rows)
    # A line that is cut would hide what is tapped.
    widest = console.measure(tree, options=console.options.update(width=WIDEST)).maximum
    console.width = max(console.width, widest)
    console.print(tree)
    console.print("MODULE taps what a module returns, MODULE:input what it is given")
    _print_automatic(console.print, automatic)
    if traced.repeated:
        repeated = ", ".join(traced.repeated)
        console.print(f"run more than once, no taps: {repeated}", markup=False, soft_wrap=True)


def _given(model: str, image_size: int | None) -> Any:
    """Return the side of a model's images, or words for a model of text."""
    import torch

    from kdcore.models.build import offer_of, usual_size

    offer = offer_of(model, "model")
    if offer and offer.text and image_size is None:
        words = torch.ones(2, WORDS, dtype=torch.int64)
        return {"input_ids": words, "attention_mask": words}
    if image_size is not None:
        return image_size
    return offer.preprocess.size if offer and offer.preprocess else usual_size(model)


def _sample(given: Any) -> Any:
    import torch

    return torch.zeros(2, 3, given, given) if isinstance(given, int) else given


def _tree(title: str, rows: list[dict[str, Any]]) -> "Tree":
    """Hang every module below the one that holds it; a container that never ran is a bare name."""
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(escape(title))
    branches = {"": tree}
    for row in rows:
        parts = row["tap"].split(".")
        for end in range(1, len(parts)):
            above = ".".join(parts[:end])
            if above not in branches:
                parent = branches[".".join(parts[: end - 1])]
                branches[above] = parent.add(escape(parts[end - 1]))
        shape = "no tensor" if row["shape"] is None else " x ".join(map(str, row["shape"]))
        weights = f"  {row['parameters']:,} parameters" if row["parameters"] else ""
        mark = f"  [bold]<- {escape(row['auto'])}[/]" if row["auto"] else ""
        line = f"[bold]{escape(parts[-1])}[/]  {escape(row['type'])}  {shape}{weights}{mark}"
        branches[row["tap"]] = branches[".".join(parts[:-1])].add(line)
    return tree


def _print_automatic(show: Any, automatic: dict[str, dict[str, Any]]) -> None:
    """Print what `auto` chooses, each as the setting that would say the same, with its reason."""
    show("\nwhat auto chooses, to copy into a strategy's entry (of a teacher: teacher_tap):")
    for kind, found in automatic.items():
        if not found["taps"]:
            show(f"# {kind}: {found['why'][0]}", markup=False, soft_wrap=True)
            continue
        several = kind == "stages"
        taps = ", ".join(json.dumps(tap) for tap in found["taps"])
        setting = f"student_taps = [{taps}]" if several else f"student_tap = {taps}"
        for tap, reason in zip(found["taps"], found["why"], strict=True):
            show(f"# {kind}: {tap} is {reason}", markup=False, soft_wrap=True)
        show(setting, markup=False, soft_wrap=True)
