import io
import json
import signal
from datetime import date
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from kdcore.configfile import as_run, override, read_file, read_recipe
from kdcore.context import RunContext
from kdcore.data.source import ImageSource
from kdcore.errors import CatalogError, DataError, Interrupted, ModelError, UserError
from kdcore.experiment import RunConfig, StageConfig
from kdcore.fingerprint import digest_of, fingerprint_of
from kdcore.interruption import Interruption
from kdcore.job import BEST_WEIGHTS, CONFIG, METRICS, RESULT, STUDENT_WEIGHTS
from kdcore.listening import LiveSignals
from kdcore.machine import machine_line
from kdcore.models.build import Built
from kdcore.models.tutorial import LightNN
from kdcore.outcome import Outcome
from kdcore.report.folder import read_result
from kdcore.run import run_student
from kdcore.saving import Saver
from kdcore.teacher_runs import run_teacher, run_teachers
from tests.clock import Clock

SMALL = (
    "teacher.model=lightnn",
    "data.limit=60",
    "teacher.image_size=8",
    "student.image_size=8",
    "train.epochs=2",
    "train.batch_size=16",
)

ALONE = (StageConfig(task_weight=1.0),)


def _config(*assignments: str) -> RunConfig:
    tree = read_recipe("tutorial")
    tree["strategies"] = [entry for c in tree.pop("candidates") for entry in c["strategies"]]
    tree["seed"] = tree.pop("seeds")[0]
    override(tree, [*SMALL, *assignments])
    return as_run(tree, "test")


def _context(config: RunConfig, out: Path) -> RunContext:
    return RunContext(config, out, Console(quiet=True))


def test_a_run_leaves_a_clean_student_its_log_and_the_resolved_experiment(tmp_path: Path) -> None:
    config = _config()
    context = _context(config, tmp_path)
    teacher = run_teacher(context, 42)
    result = run_student(context, 42, "all", config.plan, {"teacher": teacher})
    folder = Path(result.folder)
    fresh = context.new_student(42)
    fresh.load_state_dict(load_file(folder / STUDENT_WEIGHTS))
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    assert [line["kind"] for line in lines].count("epoch") == 2
    labels = {"total", "task", "logits", "cosine", "fitnets"}
    assert all(set(line["losses"]) == labels for line in lines if line["kind"] == "step")
    assert 'student_tap = "classifier:input"' in (folder / CONFIG).read_text()
    assert "auto:" not in (folder / CONFIG).read_text()


def test_the_resolved_experiment_gives_the_same_run_again(tmp_path: Path) -> None:
    config = _config("data.labels=20")
    context = _context(config, tmp_path)
    teacher = run_teacher(context, 42)
    first = run_student(context, 42, "all", config.plan, {"teacher": teacher})
    again = as_run(read_file(Path(first.folder) / CONFIG), "again")
    other = _context(again, tmp_path / "again")
    second = run_student(other, again.seed, "all", again.plan, run_teachers(other, 42))
    assert not second.kept
    one, two = (load_file(Path(r.folder) / STUDENT_WEIGHTS) for r in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [r["losses"] for r in first.epochs] == [r["losses"] for r in second.epochs]


def test_a_finished_run_is_kept_and_one_with_other_settings_is_not(tmp_path: Path) -> None:
    config = _config()
    context = _context(config, tmp_path)
    first = run_student(context, 42, "student", ALONE, {})
    assert not first.kept
    kept = run_student(context, 42, "student", ALONE, {})
    assert kept.kept
    assert (kept.accuracy, kept.folder) == (first.accuracy, first.folder)
    changed = _context(_config("train.lr=0.01"), tmp_path)
    assert not run_student(changed, 42, "student", ALONE, {}).kept


def test_what_is_done_again_says_why(tmp_path: Path) -> None:
    def said(*assignments: str) -> str:
        console = Console(record=True, width=500, quiet=False, file=io.StringIO())
        context = RunContext(_config(*assignments), tmp_path, console)
        run_student(context, 42, "student", ALONE, {})
        return console.export_text()

    assert "done again" not in said()
    assert "finished before, kept" in said()
    again = said("train.lr=0.01", "train.epochs=1")
    assert "is of other settings: train.epochs; train.lr" in again
    weights = max(tmp_path.glob("*/student.safetensors"), key=lambda file: file.stat().st_mtime)
    weights.write_bytes(weights.read_bytes()[:-1])
    assert f"what is in {weights.parent} is damaged or incomplete" in said(
        "train.lr=0.01", "train.epochs=1"
    )


def test_a_teacher_is_kept_when_only_the_students_labels_change(tmp_path: Path) -> None:
    assert not run_teacher(_context(_config(), tmp_path), 42).result.kept
    assert run_teacher(_context(_config("data.labels=20"), tmp_path), 42).result.kept
    assert not run_teacher(_context(_config("data.limit=50"), tmp_path), 42).result.kept


def test_a_model_of_equal_weights_and_other_code_is_no_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(_config(), tmp_path)
    run_student(context, 42, "student", ALONE, {})

    def other_forward(self: LightNN, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = 2 * self.classifier(self.features(x).flatten(1))
        return logits

    monkeypatch.setattr(LightNN, "forward", other_forward)
    assert not run_student(context, 42, "student", ALONE, {}).kept


def test_a_result_is_found_where_its_folder_was_moved_to(tmp_path: Path) -> None:
    run_student(_context(_config(), tmp_path / "old"), 42, "student", ALONE, {})
    (tmp_path / "old").rename(tmp_path / "new")
    kept = run_student(_context(_config(), tmp_path / "new"), 42, "student", ALONE, {})
    assert kept.kept
    assert Path(kept.folder).is_relative_to(tmp_path / "new")


def test_an_interrupted_run_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    context = _context(_config(), tmp_path)
    first = run_student(context, 42, "student", ALONE, {})
    (Path(first.folder) / RESULT).write_text('{"key": "half')
    assert not run_student(context, 42, "student", ALONE, {}).kept


def test_a_teacher_from_a_file_is_not_trained(tmp_path: Path) -> None:
    trained = run_teacher(_context(_config(), tmp_path), 42)
    context = _context(_config(f'teacher.weights="{trained.weights}"'), tmp_path / "other")
    given = run_teacher(context, 42)
    assert given.identity == trained.identity
    assert given.result.seconds == 0
    assert given.result.accuracy == trained.result.accuracy


def test_the_teacher_is_the_same_after_it_has_taught(tmp_path: Path) -> None:
    config = _config()
    context = _context(config, tmp_path)
    teacher = run_teacher(context, 42)
    run_student(context, 42, "all", config.plan, {"teacher": teacher})
    size = context.data.teachers["teacher"].given
    assert fingerprint_of(teacher.model, size) == teacher.identity.fingerprint
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_the_teacher_cache_can_be_chosen_and_changes_no_number(tmp_path: Path, cache: str) -> None:
    config = _config("train.epochs=1")
    reference = _context(config, tmp_path / "auto")
    context = _context(
        _config("train.epochs=1", f"cache.mode={cache}", f"cache.folder={tmp_path / 'kept'}"),
        tmp_path / cache,
    )
    losses = []
    for each in (reference, context):
        teacher = run_teacher(each, 42)
        run = run_student(each, 42, "all", config.plan, {"teacher": teacher})
        losses.append([record["losses"] for record in run.epochs])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("cache", "asked"), [("memory", 5), ("off", 0)])
def test_asking_a_teacher_once_is_told_apart_from_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, asked: int
) -> None:
    clock = Clock(monkeypatch)
    signals = LiveSignals.signals
    monkeypatch.setattr(LiveSignals, "signals", clock.passing(10_000.0, signals))
    config = _config("train.epochs=1", f"cache.mode={cache}")
    context = _context(config, tmp_path)
    teacher = run_teacher(context, 42)
    clock.later = 0.0
    alone = run_student(context, 42, "student", ALONE, {})
    first = run_student(context, 42, "first", config.plan, {"teacher": teacher})
    second = run_student(context, 42, "second", config.plan, {"teacher": teacher})
    # 60 samples in sixteens, and a batch to see whether places matter, before the training; or
    # step by step, within it.
    in_steps = 0 if asked else 4
    told = [(each.teacher_seconds // 10_000, each.seconds // 10_000) for each in (first, second)]
    assert told == [(asked, in_steps), (0, in_steps)]
    assert alone.teacher_seconds == teacher.result.teacher_seconds == 0
    assert read_result(Path(first.folder)) == first


def test_a_continued_run_has_the_seconds_of_all_its_askings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(LiveSignals, "signals", clock.passing(10_000.0, LiveSignals.signals))
    config, due, interruption = _config("cache.mode=memory"), Saver.due, Interruption()

    def stopped(self: Saver, step: int) -> bool:
        if step == 2:
            interruption.asked = signal.SIGTERM
        return due(self, step)

    context = RunContext(config, tmp_path, Console(quiet=True), interruption=interruption)
    teacher = run_teacher(context, 42)
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "due", stopped)
        with pytest.raises(Interrupted):
            run_student(context, 42, "all", config.plan, {"teacher": teacher})
    context = _context(config, tmp_path)
    found = run_student(context, 42, "all", config.plan, {"teacher": run_teacher(context, 42)})
    assert found.teacher_seconds // 10_000 == 2 * 5
    assert found.seconds < 10_000


def test_a_result_says_when_and_on_what_it_was_finished(tmp_path: Path) -> None:
    context = _context(_config("train.epochs=1"), tmp_path)
    found = run_student(context, 42, "student", ALONE, {})
    assert found.machine == machine_line(context.device)
    assert found.made == date.today().isoformat()
    saved = json.loads((Path(found.folder) / RESULT).read_text())
    # What was saved before any of it was noted is read, and says nothing of it.
    for key in ("teacher_seconds", "made", "machine"):
        del saved[key]
    (Path(found.folder) / RESULT).write_text(json.dumps(saved))
    kept = run_student(context, 42, "student", ALONE, {})
    assert kept.kept
    assert (kept.teacher_seconds, kept.made, kept.machine) == (0, "", "")


def test_the_best_weights_are_chosen_on_the_validation_split_and_scored_on_the_test(
    tmp_path: Path,
) -> None:
    context = _context(_config("data.validation=0.3", "train.epochs=4"), tmp_path)
    result = run_student(context, 42, "student", ALONE, {})
    assert result.best_epoch is not None
    record = result.epochs[result.best_epoch - 1]
    scores = [r["validation"]["accuracy"] for r in result.epochs]
    assert record["validation"]["accuracy"] == max(scores)
    assert result.best_scores == record["scores"]
    assert (Path(result.folder) / BEST_WEIGHTS).is_file()


def test_the_best_weights_are_those_of_the_score_that_was_selected(tmp_path: Path) -> None:
    lr = "train.lr=0.02"  # at which scores rise and fall
    overrides = ("data.validation=0.3", "train.epochs=6", lr)
    for select, name in (("accuracy", "accuracy"), ("macro-f1", "macro-F1")):
        config = _config(*overrides, f"task.select={select}")
        result = run_student(_context(config, tmp_path), 42, "student", ALONE, {})
        assert result.best_epoch is not None
        scores = [record["validation"][name] for record in result.epochs]
        assert scores[result.best_epoch - 1] == max(scores)
        assert result.metric is not None
        assert result.metric.name == name


def test_a_run_keeps_what_its_student_said_of_the_test_and_validation_images(
    tmp_path: Path,
) -> None:
    context = _context(_config("data.validation=0.3"), tmp_path)
    result = run_student(context, 42, "student", ALONE, {})
    assert result.outcome is not None
    outcome = Outcome.load(Path(result.outcome))
    assert outcome is not None
    right = outcome.logits.argmax(1) == outcome.targets
    assert 100 * float(right.double().mean()) == pytest.approx(result.accuracy)
    assert context.data.validation is not None
    assert outcome.validation_targets is not None
    assert torch.equal(outcome.validation_targets, context.data.validation.targets)
    assert result.costs is not None
    student = context.new_student(42)
    assert result.costs.parameters == sum(each.numel() for each in student.parameters())
    again = run_student(
        _context(_config("data.validation=0.3"), tmp_path), 42, "student", ALONE, {}
    )
    assert (again.kept, again.outcome, again.costs) == (True, result.outcome, result.costs)


def test_validation_images_are_not_trained_on(tmp_path: Path) -> None:
    data = _context(_config("data.validation=0.25"), tmp_path).data
    assert isinstance(data.validation, ImageSource)
    assert isinstance(data.student, ImageSource)
    assert len(data.student) + len(data.validation) == 60
    student = {data.student.data.images.name(i) for i in range(len(data.student))}
    held_out = {data.validation.data.images.name(i) for i in range(len(data.validation))}
    assert not student & held_out


def test_students_of_a_seed_start_equal_and_those_of_another_do_not(tmp_path: Path) -> None:
    context = _context(_config(), tmp_path)
    one, same, other = (digest_of(context.new_student(s).state_dict()) for s in (42, 42, 43))
    assert one == same != other


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the output folder"):
        _context(_config(), tmp_path / "file" / "below")


def test_a_result_whose_weights_were_changed_is_not_kept(tmp_path: Path) -> None:
    context = _context(_config(), tmp_path)
    first = run_student(context, 42, "student", ALONE, {})
    file = Path(first.folder) / STUDENT_WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert not run_student(context, 42, "student", ALONE, {}).kept


def test_a_callable_that_returns_a_trained_model_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    cached = LightNN(image_size=8)
    monkeypatch.setattr("kdcore.context.build", lambda *_: Built(cached, "random", "own"))
    context = _context(_config(), tmp_path)
    context.new_student(42)
    with torch.no_grad():
        next(cached.parameters()).add_(1)
    with pytest.raises(ModelError, match="began with other weights than before"):
        context.new_student(42)


def test_a_misspelt_strategy_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    nowhere = f"data={{name = 'folder', root = '{tmp_path / 'nowhere'}'}}"
    with pytest.raises(DataError, match="nowhere"):  # the control
        _context(_config(nowhere), tmp_path / "out")
    config = _config(nowhere)
    misspelt = config.strategies[0].model_copy(update={"name": "logist"})
    with pytest.raises(CatalogError, match="logist"):
        _context(config.model_copy(update={"strategies": (misspelt,)}), tmp_path / "out")
