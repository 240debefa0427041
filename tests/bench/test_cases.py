"""Every case runs, and all of them are in what programs read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader
from typer import Typer
from typer.testing import CliRunner

from kdcore.bench import cases, keeping, parts, plain
from kdcore.bench.measure import Result
from kdcore.bench.work import Settings, Work
from kdcore.cli import bench
from kdcore.errors import ConfigError, UserError

app = Typer(pretty_exceptions_enable=False)
app.command()(bench.command)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four images, loaders without processes, and no process of its own."""
    make = Work.of
    monkeypatch.setattr(Work, "of", lambda settings: replace(make(settings), batch_size=4))
    monkeypatch.setattr(
        plain, "new_loader", lambda work: DataLoader(plain.ArrayDataset(work), work.batch_size)
    )
    monkeypatch.setattr(keeping, "STATUS", Path("/nowhere"))
    monkeypatch.setitem(
        cases.CASES, "startup", lambda _: [Result("startup", "kdcore --help", "s", [0.5])]
    )
    monkeypatch.setattr(parts, "CALLS", 2)


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.usefixtures("_small")
def test_all_cases_are_in_the_table_and_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    sizes = ("--size", "4", "--epochs", "1", "--repeats", "1", "--device", "cpu")
    text = _run(*sizes, "--json", str(file))
    found: dict[str, Any] = json.loads(file.read_text())
    names = ["distil", "comparison", "bound", "overhead", "cache", "data", "startup"]
    assert list(found["cases"]) == names
    for name, results in found["cases"].items():
        assert f"measuring {name}" in text
        for result in results:
            assert result["lowest"] <= result["median"] <= result["highest"]
            assert len(result["values"]) == 1
    assert {"processor", "cores", "threads", "torch", "device"} <= set(found["machine"])
    assert found["settings"]["size"] == 4
    # A ratio is of the seconds beside it, and says who is faster.
    (distil,) = found["cases"]["distil"]
    assert distil["median"] == distil["seconds"]["tutorial"][0] / distil["seconds"]["kdcore"][0]
    (bound,) = found["cases"]["bound"]
    share = bound["seconds"]["bound"][0] / bound["seconds"]["kdcore"][0]
    assert bound["median"] == pytest.approx(100 * share)
    alone, *others, many = found["cases"]["overhead"]
    small = others[3]
    more = alone["seconds"]["kdcore"][0] / alone["seconds"]["bound"][0] - 1
    assert alone["median"] == pytest.approx(100 * more)
    taken = small["seconds"]["kdcore"][0] - small["seconds"]["bound"][0]
    assert small["median"] == pytest.approx(1e6 * taken / (cases.SMALL // 2))
    assert len(others) == 3 + 4 + 1
    for hooks, count in ((others[-1], "three"), (many, "seventeen")):
        assert hooks["what"] == f"hooks of {count} strategies that compute nothing"
        assert hooks["unit"] == "µs a step"


@pytest.mark.usefixtures("_small")
def test_only_the_cases_that_are_named_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    _run("--size", "4", "--only", "startup", "--json", str(file), "--device", "cpu")
    assert list(json.loads(file.read_text())["cases"]) == ["startup"]


def test_an_unknown_case_is_one_line_with_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"^unknown case 'distill'; did you mean 'distil'\?"):
        cases.chosen(["bound", "distill"])
    assert cases.chosen(["startup", "bound"]) == ["bound", "startup"]
    assert cases.chosen(None) == [name for name in cases.CASES if name != "methods"]
    assert cases.chosen(["methods"]) == ["methods"]


def test_a_precision_or_device_that_is_not_there_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision"):
        cases.check(Settings(precision="16"))
    with pytest.raises(ConfigError, match="fp16-mixed"):
        cases.check(Settings(precision="fp16-mixed"))
    with pytest.raises(UserError, match="no device 'nowhere'"):
        cases.check(Settings(device="nowhere"))
    cases.check(Settings(precision="bf16-mixed"))
