"""What authors of strategies type: a new package, checks, a strategy in a file, blocked names."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcore.cli.main import run_command

ROOT = Path(__file__).parents[2]

METHOD = '''
from kdcore import Strategy, StrategySettings, hookimpl, squared_error
from pydantic import Field

class Mine(Strategy):
    """Nobody 2026: the squared error of the logits."""

    class Settings(StrategySettings):
        factor: float = Field(1.0, gt=0, description="what the teacher's logits are times")

    @hookimpl
    def compute_auxiliary_loss(self, student, teacher):
        return squared_error(student.logits, self.settings.factor * teacher.logits)

class Broken(Mine):
    @hookimpl
    def compute_auxiliary_loss(self, student, teacher):
        return squared_error(student.logits.detach(), teacher.logits)
'''

EXPERIMENT = """
[data]
name = "digits"
limit = 60
[teacher]
model = "lightnn"
train = { epochs = 1 }
[train]
epochs = 1
batch_size = 20
[[candidates]]
label = "one"
strategies = [{ name = "methods/mine.py:Mine", factor = 2.0 }]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(METHOD)
    return tmp_path


def _said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run_command(list(arguments)) == code
    told = capsys.readouterr()
    return told.out + told.err


def test_a_strategy_in_a_file_is_tried_by_its_path(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--recipe", "tutorial", "--limit", "60", "--epochs", "1", "--teacher-model", "lightnn")
    said = _said(capsys, "compare", *small, "--strategies", "./methods/mine.py:Mine+logits")
    assert f"importing Mine from {here / 'methods' / 'mine.py'}" in said
    assert "mine+logits" in said
    (kept,) = here.glob("kdcore-runs/tutorial/mine+logits-seed42-*/config.toml")
    assert f'name = "{here}/methods/mine.py:Mine"' in kept.read_text()


def test_in_an_experiment_its_path_is_from_the_file(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "experiment.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(here.parent)
    out = str(here / "out")
    assert "one" in _said(capsys, "compare", str(here / "experiment.toml"), "--out", out)
    result = json.loads(next(here.glob("out/one-*/result.json")).read_text())
    assert '"factor": 2.0' in json.dumps(result["facts"])
    # What changed is done anew: the file is part of what a result depends on.
    said = _said(capsys, "compare", str(here / "experiment.toml"), "--out", out)
    assert "epoch   1/1" not in said
    changed = METHOD.replace("return squared_error(", "return 0.5 * squared_error(")
    (here / "methods" / "mine.py").write_text(changed)
    said = _said(capsys, "compare", str(here / "experiment.toml"), "--out", out)
    assert "epoch   1/1" in said


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("./nothing.py:Mine", None, "there is no file"),
        ("./new.py:Mine", "def", "cannot be imported: SyntaxError"),
        ("./new.py:Mine", "import sys; sys.exit(0)", "cannot be imported: SystemExit"),
        ("./new.py:Mine", "Mien = 1", "unknown name 'Mine'; did you mean 'Mien'"),
        ("./new.py:Mine", "Mine = 1", "not a subclass of kdcore.Strategy"),
    ],
)
def test_a_file_without_a_strategy_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, told: str
) -> None:
    if text is not None:
        (here / "new.py").write_text(text)
    said = _said(capsys, "check", name, code=2)
    assert told in said
    assert said.splitlines()[-1].startswith("error: ")


@pytest.mark.usefixtures("here")
def test_check_says_what_passes_and_how_to_mend_what_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The second needs other processes, which must find the file.
    few = ("--only", "gradient_reaches_all_that_learns", "--only", "two_processes_agree")
    said = _said(capsys, "check", "methods/mine.py:Mine", *few, "--json", "checks.json")
    assert "passed  two_processes_agree" in said
    assert "2 passed, 0 failed, 0 skipped" in said
    outcomes = [each["outcome"] for each in json.loads(Path("checks.json").read_text())["checks"]]
    assert outcomes == ["passed", "passed"]
    said = _said(capsys, "check", "methods/mine.py:Broken", *few, code=3)
    assert "failed  gradient_reaches_all_that_learns: " in said
    assert "undetached" in said
    assert "skipped two_processes_agree: gradient_reaches_all_that_learns failed" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check"], "give the NAME of a strategy"),
        (["check", "logits", "--only", "loss_is_finit"], "did you mean 'loss_is_finite'"),
        (["check", "logits", "--set", "temperature"], "expected SETTING=VALUE"),
        (["check", "logits", "--set", "temperature=0"], "greater than 0"),
        (["check", "logit"], "did you mean 'logits'"),
        (["new-strategy", "Mine"], "'Mine' is no name of a strategy"),
        (["new-strategy", "class"], "'class' is no name of a strategy"),
        (["new-strategy", "logits"], "installed already (kdcore-logits"),
        (["new-strategy", "total"], "no strategy can be called 'total'"),
        (["new-strategy", "train"], "PyTorch has a use for it"),
        (["strategies", "logits", "--no-strategy", "logits"], "blocked by name"),
    ],
)
def test_what_is_mistyped_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in _said(capsys, *arguments, code=2)


def test_all_checks_are_listed_with_what_they_claim(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _said(capsys, "check", "--list").splitlines()
    assert len(lines) >= 30
    assert all(": " in line for line in lines)


def test_a_blocked_name_is_listed_as_such_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(capsys, "strategies", "--no-strategy", "logits", "--no-strategy", "cosine")
    blocked = {line.split()[0] for line in said.splitlines() if "blocked by name" in line}
    assert blocked == {"logits", "cosine"}
    small = ("--limit", "60", "--epochs", "1", "--strategies", "cosine+logits")
    assert "'logits' is blocked" in _said(
        capsys, "compare", *small, "--no-strategy", "logits", code=2
    )


def test_listing_with_import_says_what_is_broken(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"kd_broken": "import sys; sys.exit(0)"}
    install("kd-broken", {"broken": "kd_broken:Method"}, source=source)

    def line_of(name: str, *options: str) -> str:
        lines = _said(capsys, "strategies", *options).splitlines()
        return next(line for line in lines if line.startswith(name))

    assert "SystemExit" not in line_of("broken")
    assert "SystemExit" in line_of("broken", "--import")
    assert " ok " in line_of("logits", "--import")


def test_a_new_package_is_written_once_and_is_what_it_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _said(capsys, "new-strategy", "my-method", "--dir", "packages")
    assert "pip install -e 'packages/kdcore-my-method[test]'" in said
    folder = here / "packages" / "kdcore-my-method"
    written = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    assert written == [
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/kdcore_my_method/__init__.py",
        "src/kdcore_my_method/py.typed",
        "tests/test_kdcore_my_method.py",
    ]
    assert "Apache License" in (folder / "LICENSE").read_text()
    module = f"{folder / 'src' / 'kdcore_my_method' / '__init__.py'}:MyMethod"
    assert "0 failed" in _said(capsys, "check", module, "--only", "loss_is_finite")
    only = ("--only", "it_says_what_it_is")
    told = _said(capsys, "check", module, *only, code=3)
    assert "docstring of its class is the template's: 'TODO: authors and year" in told
    assert "source of its recommended weights is the template's: 'TODO: their paper'" in told
    written_module = folder / "src" / "kdcore_my_method" / "__init__.py"
    written_module.write_text(written_module.read_text().replace("TODO: ", ""))
    assert "0 failed" in _said(capsys, "check", module, *only)
    _said(capsys, "new-strategy", "features", "--dir", "packages")
    features = here / "packages/kdcore-features/src/kdcore_features/__init__.py:FeaturesMethod"
    assert "0 failed" in _said(capsys, "check", str(features), "--only", "loss_is_finite")
    assert "there already" in _said(
        capsys, "new-strategy", "my-method", "--dir", "packages", code=2
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="builds with uv")
def test_from_wheels_alone_a_strategy_is_written_changed_installed_checked_and_compared(
    tmp_path: Path,
) -> None:
    """As its author would, in a folder of its own, with nothing of the repository in reach."""
    wheels, work, environment = tmp_path / "wheels", tmp_path / "work", tmp_path / "environment"
    for project in (ROOT, *sorted((ROOT / "plugins").iterdir())):
        _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(project))
    _run("uv", "venv", "--quiet", "--python", sys.executable, str(environment))
    (borrowed,) = (environment / "lib").glob("python*/site-packages")
    _borrow(borrowed)
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTEST", "PYTHON", "KDCORE"))
    }
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    clean |= {"VIRTUAL_ENV": str(environment), "PATH": path}
    built = sorted(map(str, wheels.glob("*.whl")))
    _run("uv", "pip", "install", "--quiet", "--no-deps", *built, env=clean)
    work.mkdir()

    def typed(*command: str, code: int = 0) -> str:
        return _run(*command, cwd=work, env=clean, code=code)

    where = typed("python", "-c", "import kdcore; print(kdcore.__file__)")
    assert where.startswith(str(environment))
    typed("kdcore", "new-strategy", "own")
    module = work / "kdcore-own" / "src" / "kdcore_own" / "__init__.py"
    text = module.read_text()
    changed = text.replace("return squared_error(", "return 2 * squared_error(")
    assert changed != text
    module.write_text(changed)
    install = ("uv", "pip", "install", "--quiet", "--no-deps", "-e", "kdcore-own")
    typed(*install)
    assert "own" in typed("kdcore", "strategies")
    told = typed("kdcore", "check", "own", code=3)
    assert "1 failed" in told
    assert "description of its package (pyproject.toml) is the template's: 'TODO: what" in told
    for file in (module, work / "kdcore-own" / "pyproject.toml"):
        file.write_text(file.read_text().replace("TODO: ", ""))
    typed(*install)
    assert "0 failed" in typed("kdcore", "check", "own")
    small = ("--recipe", "tutorial", "--limit", "100", "--epochs", "1")
    said = typed("kdcore", "compare", *small, "--strategies", "own,own+logits")
    assert "own+logits" in said
    # The case that was computed by hand is of the loss as it was.
    failed = typed("python", "-m", "pytest", "-q", "kdcore-own", code=1)
    assert "1 failed" in failed
    assert "test_it_is_what_a_hand_computes" in failed


def _borrow(site_packages: Path) -> None:
    """Let a new environment use what this one has, kdcore and what it builds on excepted."""
    shared = site_packages.parent / "shared"
    shared.mkdir()
    import torch

    for each in Path(torch.__file__).parents[1].iterdir():
        if "kdcore" not in each.name.lower() and each.suffix != ".pth":
            (shared / each.name).symlink_to(each)
    (site_packages / "shared.pth").write_text(f"{shared}\n")


def _run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, code: int = 0
) -> str:
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout
