"""`kdcore predict`: what an exported student says of image files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kdcore.shipping.opened import Opened

EXAMPLE = "Example: kdcore predict student.onnx photo.jpg other.png --top 3"


def command(
    file: Annotated[
        Path,
        typer.Argument(help="An exported .onnx, .pt2 or .safetensors file, or a run's folder."),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    top: Annotated[int, typer.Option(help="Tell so many classes.", min=1)] = 1,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run's folder, the weights best on validation.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Read image files as they are, and print the classes that a student takes them for.

    An image that cannot be read is told on a line of its own; the exit code is 2 then.
    """
    opened = _opened(file, best)
    from kdcore.shipping.predict import check_predicts, images_at, predict

    check_predicts(opened, str(file))
    told, failed = [], False
    probable = opened.card.task != "regression"
    for image in images_at(images):
        found = predict(opened, image, top)
        failed = failed or found.error is not None
        told.append(
            {"image": found.image, "error": found.error}
            if found.error
            else {"image": found.image, "values": dict(found.values)}
        )
        if found.error:
            typer.echo(f"error: {found.error}", err=True)
        elif not as_json:
            shown = (
                f"{name} {value:.1%}" if probable else f"{name} {value:.4g}"
                for name, value in found.values
            )
            typer.echo(f"{found.image}: {', '.join(shown)}")
    if as_json:
        typer.echo(json.dumps({"images": told}, indent=2))
    if failed:
        raise typer.Exit(2)


def _opened(file: Path, best: bool) -> "Opened":
    from kdcore.errors import UserError

    if file.is_dir():
        from kdcore.cli.options import announce_imports
        from kdcore.shipping.opened import open_student
        from kdcore.shipping.student import FinishedRun

        announce_imports(*FinishedRun.of(file).experiment.imports)
        run = FinishedRun.of(file)
        card = run.card(best)
        return open_student(run.student(card), card)
    if best:
        raise UserError(f"--best would be ignored: {file} is no folder of a run")
    from kdcore.shipping.formats import TORCH, open_file

    if file.suffix == TORCH.ending and file.is_file():
        typer.echo(f"loading {file} by torch.export, which runs what is in it", err=True)
    return open_file(file)
