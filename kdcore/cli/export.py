"""`kdcore export`: a student's files, each proven equal to it."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: kdcore export kdcore-runs/demo/logits-seed42-1a2b3c4d --onnx --int8"


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a student's finished run.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write ONNX.")] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Also write what torch.export makes of it.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also quantize to eight bits, as ONNX.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="The weights that were best on the validation split.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; export in the run's if not given.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where its data lie, if no longer where they did.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Bound of differences; 1e-4 for ONNX, otherwise 1e-6 if not given."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Compare the first N test samples; all if not given.", min=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Write a student as safetensors, and as ONNX and torch.export, and prove each file.

    Each file is opened anew and run on the run's own test samples; one that does not give the
    student's logits is removed. README.md beside them says how an image is read.
    """
    from kdcore.errors import UserError
    from kdcore.sections import ExportConfig
    from kdcore.shipping.extras import check_onnx

    if tolerance is not None and not tolerance >= 0:
        raise UserError(f"--tolerance {tolerance}: expected 0 or more")
    if onnx or int8:
        check_onnx("--onnx" if onnx else "--int8")
    asked = {"onnx": onnx or int8, "torch": torch_export}
    formats = tuple(name for name, wanted in asked.items() if wanted)
    from kdcore.cli.options import announce_imports
    from kdcore.shipping.export import export_run
    from kdcore.shipping.record import EXPORT, FOLDER
    from kdcore.shipping.student import FinishedRun

    announce_imports(*FinishedRun.of(run).experiment.imports)
    shipment = export_run(
        run,
        ExportConfig.model_validate({"formats": formats, "int8": int8}),
        lambda text: typer.echo(text, err=True),
        best=best,
        out=out,
        root=root,
        tolerance=tolerance,
        samples=samples,
    )
    target = out or run / FOLDER
    if as_json:
        typer.echo((target / EXPORT).read_text(encoding="utf-8"), nl=False)
        return
    for line in shipment.lines():
        typer.echo(line)
    typer.echo(f"student: {target}")
