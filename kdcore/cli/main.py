"""The command `kdcore`: its commands, and how failures become one line and an exit code.

Nothing heavy is imported here: help must not wait for PyTorch.
"""

import os
import shlex
import sys

import typer
from typer.exceptions import Abort, TyperException

from kdcore import __version__
from kdcore.cli import (
    bench,
    cache,
    check,
    compare,
    export,
    layers,
    new_strategy,
    predict,
    recipe,
    report,
    reproduce,
    run,
    strategies,
    tune,
)
from kdcore.errors import FULL, Interrupted, KdcoreError
from kdcore.interruption import Stopped, exit_code_of

app = typer.Typer(
    name="kdcore",
    help="Distil any PyTorch teacher into any PyTorch student, with methods as plugins.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help would import all of rich first
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="compare", epilog=compare.EXAMPLE)(compare.command)
app.command(name="recipe", epilog=recipe.EXAMPLE)(recipe.command)
app.command(name="run", epilog=run.EXAMPLE)(run.command)
app.command(name="report", epilog=report.EXAMPLE)(report.command)
app.command(name="tune", epilog=tune.EXAMPLE)(tune.command)
app.command(name="export", epilog=export.EXAMPLE)(export.command)
app.command(name="predict", epilog=predict.EXAMPLE)(predict.command)
app.command(name="strategies", epilog=strategies.EXAMPLE)(strategies.command)
app.command(name="new-strategy", epilog=new_strategy.EXAMPLE)(new_strategy.command)
app.command(name="check", epilog=check.EXAMPLE)(check.command)
app.command(name="layers", epilog=layers.EXAMPLE)(layers.command)
app.command(name="bench", epilog=bench.EXAMPLE)(bench.command)
app.command(name="reproduce", epilog=reproduce.EXAMPLE)(reproduce.command)
app.add_typer(cache.app, name="cache")

INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdcore {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Distil any PyTorch teacher into any PyTorch student, with methods as plugins."""


def main() -> None:
    """Run the command line and exit: 0, 2 for what was typed, 3 for a run that failed."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = app(arguments, prog_name="kdcore", standalone_mode=False)
        # Typer turns an interrupt into this code and says nothing.
        if code == INTERRUPTED:
            return _interrupted(arguments)
        return code if isinstance(code, int) else 0
    except Interrupted as stopped:
        typer.echo(f"{stopped}{_again(arguments)}", err=True)
        return stopped.exit_code
    except Stopped as stopped:
        return _interrupted(arguments, exit_code_of(stopped.signal))
    except KdcoreError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        message = error.format_message()
        return _fail(message, 2) if message else 0  # nothing was asked for: help was shown
    except (KeyboardInterrupt, Abort):
        return _interrupted(arguments)
    except BrokenPipeError:
        # The reader has gone; leave quietly, and keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1

    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" for {error.filename}" if error.filename else ""
        return _fail(f"no space left{where}: make room, and the same command continues", 3)


def _interrupted(arguments: list[str], code: int = INTERRUPTED) -> int:
    return _fail(
        "stopped at once; the same command keeps finished runs, and continues this one where it "
        f"was saved{_again(arguments)}",
        code,
    )


def _again(arguments: list[str]) -> str:
    """Return the command that goes on, to copy; nothing where `torchrun` was told it."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return f": kdcore {shlex.join(arguments)}" if alone else ""


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    process = "" if rank == "0" else f" in process {rank}"
    typer.echo(f"error{process}: {line}", err=True)
    return code
