import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import kdcore
from kdcore.cli.main import run_command
from kdcore.experiment import StrategyConfig
from tests.shipped import SHIPPED

SMALL = (
    *("--recipe", "tutorial", "--epochs", "1", "--limit", "60", "--batch-size", "16"),
    *("--teacher-model", "lightnn", "--image-size", "8", "--device", "cpu"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of twelve small photographs each, in folders."""
    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "photos"
    for index, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = torch.randint(60 + 60 * index, 80 + 60 * index, (3,), generator=generator)
            Image.new("RGB", (20, 14), tuple(pixels.tolist())).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command line, checks its exit code and returns its error."""

    def run(*arguments: str | Path, code: int = 2) -> str:
        assert run_command([str(argument) for argument in arguments]) == code
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith(("importing ", "left out: ")) for line in lines[:-1])
        assert lines[-1].startswith("error: ")
        return lines[-1]

    return run


def test_help_of_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compare", "run", "strategies", "layers"):
        assert run_command([command, "--help"]) == 0
        assert f"Example: kdcore {command}" in " ".join(capsys.readouterr().out.split())


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"kdcore {kdcore.__version__}\n"


def test_compare_prints_what_the_tutorial_prints_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    arguments = ["compare", "--recipe", "tutorial", "--limit", "60", "--epochs", "1"]
    arguments += ["--out", str(tmp_path / "out"), "--json", str(result), "--batch-size", "16"]
    assert run_command(arguments) == 0
    text = capsys.readouterr().out
    assert "teacher deepnn: 1,186,986 parameters" in text
    assert "student lightnn: 267,738 parameters" in text
    # How far the last digits agree depends on how a machine adds up.
    assert "norm of its first layer, to tell starts apart: 2.32736" in text
    assert "hidden: classifier:input [2048] -> flatten,average-pool:1024" in text
    assert "hint: features [16, 8, 8] -> Conv2d, 4,640 trained parameters" in text
    table = text[text.rindex("accuracy (%)") :]
    for row in ("teacher", "student alone", "logits", "cosine", "fitnets"):
        assert row in table
    rows = json.loads(result.read_text())["rows"]
    assert [row["name"] for row in rows] == ["teacher", "student", "logits", "cosine", "fitnets"]
    assert all({"seed", "scores", "seconds"} <= set(row) for row in rows)


def test_strategies_are_selected_and_combined_by_name(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    arguments = ["compare", *SMALL, "--strategies", "fitnets,logits+cosine", "--labels", "20"]
    arguments += ["--out", str(tmp_path / "out"), "--json", str(result), "--quiet"]
    assert run_command([*arguments, "--seeds", "1,2"]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [row["name"] for row in rows[2:4]] == ["fitnets", "logits+cosine"]
    assert [row["seed"] for row in rows] == [1] * 4 + [2] * 4


def test_all_is_every_strategy_that_is_installed_and_not_blocked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compare", "--strategies", "all", "--list", "--no-strategy", "review"]
    assert run_command(arguments) == 0
    said = capsys.readouterr()
    names = [line.split()[-1] for line in said.out.splitlines()]
    assert set(names) >= {"student", *SHIPPED} - {"review"}
    assert len(names) == len(set(names))
    assert "review" not in names
    assert "left out: review, blocked by name" in said.err


def test_a_method_that_does_not_go_with_the_data_can_be_left_out_of_all(
    tmp_path: Path, folder: Path, error: Callable[..., str]
) -> None:
    shutil.rmtree(folder / "cat")  # of two classes there is nothing left to standardize
    blocked = [
        f"--no-strategy={name}" for name in SHIPPED if name not in ("logits", "standardized")
    ]
    said = error(
        "compare", "--data", "folder", "--root", folder, "--strategies", "all", *blocked,
        "--epochs", "1", "--teacher-model", "lightnn", "--out", tmp_path / "out", code=3,
    )  # fmt: skip
    assert "strategy 'standardized'" in said
    assert said.rstrip().endswith("--no-strategy NAME leaves a method out")


def test_set_reaches_the_settings_of_a_candidate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assignment = "candidates.logits.strategies.logits.temperature=5"
    arguments = ["compare", *SMALL, "--strategies", "logits", "--labels", "20", "--set", assignment]
    assert run_command([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "Logits(temperature=5.0)" in capsys.readouterr().out


def test_a_folder_of_class_folders_is_distilled(
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "unlabelled").mkdir()
    for number in range(6):
        Image.new("RGB", (9, 9), (number * 40,) * 3).save(folder / "unlabelled" / f"{number}.jpg")
    arguments = ["compare", *SMALL[2:], "--data", "folder", "--root", str(folder)]
    arguments += ["--strategies", "logits"]  # the recipe is not named
    assert run_command(arguments) == 0
    text = capsys.readouterr().out
    assert "3 classes" in text
    assert "the student sees 30 labels" in text
    # It is called after the images, and the same command finds it again.
    report = tmp_path / "kdcore-runs" / folder.name / "report.md"
    assert report.read_text().startswith(f"# kdcore compare: {folder.name}\n")
    before = sorted(report.parent.iterdir())
    assert run_command(arguments) == 0
    assert sorted(report.parent.iterdir()) == before
    assert [each.name for each in (tmp_path / "kdcore-runs").iterdir()] == [folder.name]


def test_a_run_from_a_file_trains_its_teacher_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.toml"
    file.write_text(
        'seed = 7\n[data]\nlimit = 60\n[teacher]\nmodel = "lightnn"\nimage_size = 8\n'
        "[student]\nimage_size = 8\n[train]\nepochs = 1\nbatch_size = 16\n"
        '[[strategies]]\nname = "logits"\n[[strategies]]\nname = "fitnets"\n'
    )
    result = tmp_path / "result.json"
    assert (
        run_command(["run", str(file), "--out", str(tmp_path / "out"), "--json", str(result)]) == 0
    )
    rows = json.loads(result.read_text())["rows"]
    assert [(row["name"], row["seed"]) for row in rows] == [("teacher", 7), ("logits+fitnets", 7)]
    assert Path(rows[1]["folder"], "student.safetensors").is_file()
    assert "student.safetensors" in capsys.readouterr().out


def test_strategies_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["strategies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"logits", "cosine", "fitnets"} <= {entry["name"] for entry in listed}
    assert run_command(["strategies", "logits", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"]["temperature"]["exclusiveMinimum"] == 0
    assert run_command(["strategies", "logits"]) == 0
    assert "temperature" in capsys.readouterr().out


def test_layers_shows_shapes_and_what_auto_would_tap(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["layers", "lightnn", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    taps = {row["tap"]: row for row in shown["taps"]}
    assert taps["features"]["shape"] == [16, 8, 8]
    assert {kind: found["taps"] for kind, found in shown["auto"].items()} == {
        "embedding": ["classifier:input"],
        "feature_map": ["features"],
        "stages": ["features.1", "features.4", "features"],
    }
    assert shown["auto"]["embedding"]["shapes"] == [[1024]]
    assert run_command(["layers", "lightnn", "--depth", "1"]) == 0
    text = capsys.readouterr().out
    assert "classifier" in text
    assert "Dropout" not in text


def test_layers_says_why_and_gives_lines_that_are_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["layers", "torchvision/resnet18", "--image-size", "64"]) == 0
    text = capsys.readouterr().out
    assert "# embedding: fc:input is what the head is given" in text
    assert "# stages: layer2 is the last map of 8 x 8" in text
    assert "<- feature_map, stages\n" in text  # no line is cut
    one = next(line for line in text.splitlines() if line.startswith("student_tap "))
    assert tomllib.loads(one) == {"student_tap": "fc:input"}
    several = next(line for line in text.splitlines() if line.startswith("student_taps"))
    taps = tomllib.loads(several)["student_taps"]
    entry = {"name": "attention", "student_taps": taps}
    assert StrategyConfig.model_validate(entry).settings["student_taps"] == taps
    assert taps == ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare --strategies logit", "unknown strategy 'logit'; did you mean 'logits'"),
        ("compare --teacher-model deepn", "teacher: unknown model 'deepn'; did you mean 'deepnn'"),
        ("compare --student-model torchvision/resnet17", "did you mean"),
        ("compare --data digit", "data.name: unknown data set 'digit'; did you mean 'digits'?"),
        ("compare --data folder", "needs data.root"),
        ("compare --data folder --root missing-folder", "missing-folder"),
        ("compare --recipe dem", "unknown recipe 'dem'; did you mean 'demo'"),
        ("compare --epochs 0", "train.epochs: input should be greater than or equal to 1"),
        ("compare --epochs ten", "Invalid value for '--epochs'"),
        ("compare --epoch 3", "No such option: --epoch"),
        ("compare --seeds 1,x", "--seeds 1,x: expected whole numbers"),
        ("compare --set train.rl=1", "unknown key 'rl'; did you mean 'lr'"),
        ("compare --set candidates.logits.strategies.logits.temperature=0", "greater than 0"),
        ("compare --set candidates.logits.strategies.logits.temp=2", "did you mean 'temperature'"),
        ("compare --set candidates.cosine.strategies.cosine.student_tap=feature", "'features'"),
        ("compare --device cuda:55", "there is no device 'cuda:55' here"),
        ("compare --teacher missing.safetensors", "missing.safetensors"),
        ("compare --labels 3", "3"),
        ("compare bare.toml", "bare.toml: there is no candidate"),
        ("compare bare.toml", "write [[candidates]] with strategies = [{ name ="),
        ("run missing.toml", "missing.toml: No such file"),
        ("strategies nothing", "unknown strategy 'nothing'"),
        ("layers nothing", "unknown model 'nothing'"),
        ("layers os:getcwd", "returned str, not an nn.Module"),
        ("frobnicate", "No such command 'frobnicate'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str,
    message: str,
    error: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.toml").write_text('[data]\nname = "digits"\n')
    words = arguments.split()
    if words[0] == "compare" and "--epoch" not in words:
        words += ["--out", str(tmp_path / "out"), "--limit", "120"]
    assert message in error(*words)


def test_a_model_of_other_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_models.py").write_text(
        "from kdcore.models.tutorial import LightNN\ndef seven():\n    return LightNN(7)\n"
    )
    text = error("compare", "--student-model", "own_models:seven", "--out", "out")
    assert "gives logits [7], the data has 10 classes" in text


def test_an_unreadable_image_is_named(
    tmp_path: Path, folder: Path, error: Callable[..., str]
) -> None:
    (folder / "bee" / "broken.png").write_bytes(b"no picture")
    text = error("compare", "--data", "folder", "--root", folder, "--out", tmp_path / "out")
    assert "broken.png" in text
    assert "--skip-unreadable" in text
    assert not (tmp_path / "out").exists()  # nothing was begun


def test_a_single_class_is_refused(tmp_path: Path, folder: Path, error: Callable[..., str]) -> None:
    for name in ("bee", "cat"):
        (folder / name).rename(tmp_path / name)
    text = error("compare", "--data", "folder", "--root", folder, "--out", tmp_path / "out")
    assert "class" in text


def test_an_output_folder_that_cannot_be_written_is_named(
    tmp_path: Path, error: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("")
    text = error("compare", "--out", tmp_path / "file" / "below")
    assert "cannot write to the output folder" in text


def test_a_loss_that_is_no_number_ends_with_exit_code_3(
    tmp_path: Path, error: Callable[..., str]
) -> None:
    arguments = ["compare", *SMALL, "--out", str(tmp_path / "out")]
    text = error(*arguments, "--lr", "1e30", "--epochs", "5", "--quiet", code=3)
    assert "'task'" in text
    assert "step" in text
    assert not list((tmp_path / "out").glob("*/teacher.safetensors"))


def test_an_interrupt_ends_with_exit_code_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdcore.comparison.compare", interrupt)
    out = tmp_path / "my runs"
    said = error("compare", *SMALL, "--out", out, code=130)
    assert "stopped at once" in said
    assert said.endswith(f"--device cpu --out '{out}'")  # the command that goes on, to copy
    monkeypatch.setenv("WORLD_SIZE", "2")  # torchrun was told it, this process was not
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("kdcore.interruption.Interruption.listening", interrupt)
    assert "kdcore compare" not in error("compare", *SMALL, "--out", out, code=130)


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kdcore.comparison.compare", broken)
    with pytest.raises(ZeroDivisionError):
        run_command(["compare", *SMALL, "--out", str(tmp_path / "out")])


def test_a_budget_that_is_typed_is_the_teachers_too(tmp_path: Path) -> None:
    arguments = ["compare", "--limit", "60", "--labels", "20", "--teacher-model", "lightnn"]
    arguments += ["--strategies", "logits", "--epochs", "1", "--lr", "0.002", "--quiet"]
    assert run_command([*arguments, "--out", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "comparison.toml").read_text()
    assert written.count("\nepochs = 1\n") + written.count(", epochs = 1") >= 2
    assert written.count("lr = 0.002\n") == 2


def test_the_literatures_networks_are_shown_at_the_size_that_they_are_made_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["layers", "resnet8"]) == 0
    assert "conv1  Conv2d  16 x 32 x 32" in capsys.readouterr().out
