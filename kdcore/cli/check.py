"""`kdcore check`: the conformance kit on one strategy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcore.cli import options

if TYPE_CHECKING:
    from kdcore.testing import CheckResult

EXAMPLE = "Example: kdcore check ./my_strategy.py:MyStrategy --set student_tap=features"


def command(
    name: Annotated[
        str | None, typer.Argument(help="An installed strategy, or FILE.py:CLASS.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SETTING=VALUE", help="A setting that is not the default."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Run this check; may be repeated.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Say what the checks are, and run none.")
    ] = False,
    json_file: options.Json = None,
) -> None:
    """Try a strategy on two small models: what users of any strategy rely on, a check each.

    Exits with 3 where a check finds something; each finding says how to mend it.
    """
    from kdcore.errors import ConfigError, RunError, unknown

    options.check_json(json_file)
    if name is None and not listed:
        raise ConfigError("give the NAME of a strategy, or --list")
    if name is not None:
        options.announce_imports(name)
    from kdcore import testing
    from kdcore.testing.case import case_of
    from kdcore.testing.check import run_all

    checks = testing.checks()
    names = [check.name for check in checks]
    for wanted in only or ():
        if wanted not in names:
            raise ConfigError(f"--only: {unknown('check', wanted, names)}")
    if name is None:
        for check in checks:
            typer.echo(f"{check.name}: {check.claim}")
        return
    case = case_of(name, _settings(assignments or []))
    chosen = [check for check in checks if not only or check.name in only]
    results = run_all(chosen, case)
    for result in results:
        typer.echo(_line(result))
    failed = sum(result.failed for result in results)
    passed = sum(result.passed for result in results)
    skipped = len(results) - failed - passed
    typer.echo(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
    _write(json_file, results)
    if failed:
        found = "one check" if failed == 1 else f"{failed} checks"
        raise RunError(f"{name} does not do what users of a strategy rely on: {found} failed")


def _line(result: "CheckResult") -> str:
    from kdcore.catalog import printable

    if not result.failed:
        why = f": {result.reason}" if result.reason else ""
        return printable(f"{result.outcome:8}{result.name}{why}")
    found = printable(" ".join(result.reason.split()))
    return f"failed  {result.name}: {found}\n        {result.check.claim} {result.check.remedy}"


def _write(json_file: Path | None, results: "list[CheckResult]") -> None:
    from kdcore.files import write_json

    if json_file is not None:
        told = [{"name": r.name, "outcome": r.outcome, "reason": r.reason} for r in results]
        write_json(json_file, {"checks": told})


def _settings(assignments: list[str]) -> dict[str, Any]:
    from kdcore.errors import ConfigError

    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected SETTING=VALUE")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings
