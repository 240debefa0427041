import importlib
import io
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from kdcore import seeking, tuning
from kdcore.comparison import compare
from kdcore.configfile import as_comparison, as_toml, override, read_file, read_recipe
from kdcore.context import RunContext
from kdcore.data.source import Source
from kdcore.errors import (
    ConfigError,
    NonFiniteLossError,
    RunError,
    UserError,
)
from kdcore.evaluation import evaluate
from kdcore.experiment import ComparisonConfig
from kdcore.history import EpochRecord, History, Observer
from kdcore.sections import TrainConfig
from kdcore.seeking import Range
from kdcore.trials import Trial, Watch, check_installed
from kdcore.tuning import TRIALS, Search, Tuned, best_of, tuning_seeds
from tests.extras import needed

optuna = needed("optuna")

SMALL = (
    "teacher.model=lightnn",
    "data.limit=60",
    "data.validation=0.3",
    "teacher.image_size=8",
    "student.image_size=8",
    "train.epochs=1",
    "train.batch_size=32",
    "seeds=[1, 2]",
)
LABELS = ["student", "logits", "cosine", "fitnets"]

Scores = Callable[[TrainConfig], Sequence[float]]


def _config(*assignments: str) -> ComparisonConfig:
    tree = read_recipe("tutorial")
    override(tree, [*SMALL, *assignments])
    return as_comparison(tree, "test")


def _search(
    config: ComparisonConfig,
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    ranges: dict[str, Range] | None = None,
    console: Console | None = None,
) -> Search:
    context = RunContext(config, out, console or Console(quiet=True))
    return Search(context, config, seeds or tuning_seeds(config), ranges)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scores], list[int]]:
    """Return a function that has trainings only tell what they came to, and lists their seeds."""

    def pretend(scores: Scores) -> list[int]:
        seeds: list[int] = []

        def train(
            _distiller: object,
            _source: Source,
            config: TrainConfig,
            seed: int,
            *,
            observers: Sequence[Observer],
            **_: object,
        ) -> History:
            seeds.append(seed)
            for epoch, score in enumerate(scores(config), start=1):
                record = EpochRecord(epoch, 0.0, {}, {}, {"accuracy": score}, config.lr, 1, 0.0)
                for observer in observers:
                    observer.on_epoch(record)
            return History()

        monkeypatch.setattr(tuning, "train", train)
        monkeypatch.setattr(tuning, "run_teachers", lambda *_: {})
        monkeypatch.setattr(RunContext, "distiller", _NoDistiller)
        monkeypatch.setattr(seeking, "rehearse", lambda *_: [])
        return seeds

    return pretend


class _NoDistiller:
    """Stands for a distiller where nothing is trained."""

    teachers: tuple[str, ...] = ()

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "_NoDistiller":
        return self

    def __exit__(self, *_: object) -> None: ...

    def take_over(self, carried: object) -> None: ...

    def carried(self) -> dict[str, Any]:
        return {}


Pretend = Callable[[Scores], list[int]]


# What is searched, and on what


def test_every_candidate_gets_equally_many_trials_and_the_first_is_as_it_was(
    tmp_path: Path, pretend: Pretend
) -> None:
    seeds = pretend(lambda config: [config.lr])
    search = _search(_config(), tmp_path, seeds=[7, 8])
    tuned = search.run(3)
    assert [each.label for each in tuned] == LABELS
    assert [len(each.trials) for each in tuned] == [3] * 4
    assert seeds == [7, 8] * 12
    for each in tuned:
        assert each.trials[0].values == {one.path: one.default for one in each.searched}
        assert each.searched[0].path == "lr"  # everybody's, as the student alone has nothing else
        assert each.best.score == max(trial.score or 0.0 for trial in each.trials)
    assert [len(each.searched) for each in tuned[:3]] == [1, 4, 3]


def test_a_trial_is_judged_by_the_mean_over_seeds_of_the_best_epoch(
    tmp_path: Path, pretend: Pretend
) -> None:
    given = iter([[10.0, 30.0, 20.0], [float("nan"), 50.0, 40.0]])
    pretend(lambda _: next(given, [0.0]))
    (first, *_) = _search(_config(), tmp_path, seeds=[7, 8]).run(1)
    assert first.best.score == 40.0
    assert first.best.epochs == {1: 10.0, 2: 30.0, 3: 20.0}


def test_trials_never_look_at_the_test_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Source] = []

    def recorded(model: torch.nn.Module, source: Source, *rest: Any) -> dict[str, float]:
        seen.append(source)
        return evaluate(model, source, *rest)

    monkeypatch.setattr("kdcore.trainer.evaluate", recorded)
    config = _config()
    context = RunContext(config, tmp_path, Console(quiet=True))
    search = Search(context, config, [7])
    teachers = search._teachers  # trained, and measured, as in a comparison
    assert teachers
    seen.clear()
    tuned = search.run(1)
    assert len(seen) == 4
    assert all(source is context.data.validation for source in seen)
    assert context.data.test is not context.data.validation
    record = json.loads((tmp_path / TRIALS).read_text())
    assert [each["trials"][0]["score"] for each in record["candidates"]] == [
        each.best.score for each in tuned
    ]
    compare(context, config)  # a comparison does look
    assert any(source is context.data.test for source in seen)


def test_a_teacher_runs_once_for_all_trials_of_all_seeds(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=500)
    _search(_config(), tmp_path, seeds=[7, 8], console=console).run(2)
    said = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert said.count("the teacher runs once") == 1
    assert "runs every epoch" not in said
    assert "is computed again" not in said
    assert "teacher, seed 8" not in said


def test_seeds_of_trials_are_none_that_are_reported() -> None:
    config = _config("seeds=[1, 2]")
    (own,) = tuning_seeds(config)
    assert own not in (1, 2)
    assert tuning_seeds(config) == [own]
    assert tuning_seeds(_config("seeds=[3]")) != [own]
    assert tuning_seeds(config, [3, 4]) == [3, 4]
    with pytest.raises(ConfigError, match="2 is a seed that the file reports"):
        tuning_seeds(config, [3, 2])
    with pytest.raises(ConfigError, match="each once"):
        tuning_seeds(config, [3, 3])


def test_nothing_is_searched_without_a_validation_split(tmp_path: Path) -> None:
    tree = read_recipe("tutorial")
    override(tree, [each for each in SMALL if "validation" not in each])
    with pytest.raises(ConfigError, match=r"hold some of the training samples out"):
        _search(as_comparison(tree, "test"), tmp_path)


def test_a_missing_optuna_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "kdcore\[tune\]"'):
        check_installed()


def test_what_is_and_is_not_searched_is_told_before_it_begins(
    tmp_path: Path, pretend: Pretend
) -> None:
    pretend(lambda config: [config.lr])
    config = _config('candidates=[{strategies = [{name = "attention"}]}]')
    told = list(_search(config, tmp_path).describe())
    where = "candidates.attention.strategies.attention"
    assert [line for line in told if line.startswith("not searched: ")] == [
        f"not searched: {where}.student_taps stays auto:stages: lists of taps are not searched",
        f"not searched: {where}.teacher_taps stays auto:stages: lists of taps are not searched",
    ]
    assert f"{where}.weight from 100 to 10000, by its logarithm" in told


def test_a_value_close_to_one_is_tried_evenly_by_its_distance_from_it(
    tmp_path: Path, pretend: Pretend
) -> None:
    pretend(lambda _: [50.0])
    config = _config('candidates=[{strategies = [{name = "contrastive", momentum = 0.98}]}]')
    search = _search(config, tmp_path)
    _, tuned = search.run(12)
    tried = [float(trial.values["0.0.momentum"]) for trial in tuned.trials]
    assert tried[0] == 0.98
    assert all(0.8 <= value <= 0.998 for value in tried)
    # Of 0.8 to 0.998 evenly, a twelfth were above: of the logarithm, half.
    assert sum(value > 0.98 for value in tried[1:]) >= 3
    # What is found is a value, not its place on the scale.
    read = best_of(config, [_search(config, tmp_path).run(1)[0], tuned])
    assert read.candidates[0].plan[0].strategies[0].settings["momentum"] in tried


# Ranges that a user gives


def test_a_range_narrows_one_setting_and_that_of_the_learning_rate_everybodys(
    tmp_path: Path, pretend: Pretend
) -> None:
    pretend(lambda config: [config.lr])
    temperature = "candidates.logits.strategies.logits.temperature"
    ranges: dict[str, Range] = {temperature: (3.0, 3.5, False), "train.lr": (0.2, 0.3, True)}
    search = _search(_config(), tmp_path, ranges=ranges)
    assert f"{temperature} from 3 to 3.5" in list(search.describe())
    for each in search.run(2):
        assert all(0.2 <= float(trial.values["lr"]) <= 0.3 for trial in each.trials)
        if each.label == "logits":
            temperatures = [float(trial.values["0.0.temperature"]) for trial in each.trials]
            assert all(3.0 <= value <= 3.5 for value in temperatures)


# How trials end


def test_a_trial_that_others_left_behind_stops_early_and_is_never_the_best(
    tmp_path: Path, pretend: Pretend
) -> None:
    told = iter([*[[50.0, 60.0, 70.0]] * 4, [55.0, 41.0, 99.0]])
    pretend(lambda _: next(told, [1.0] * 3))
    (first, *_) = _search(_config("train.epochs=3"), tmp_path).run(5)
    assert [trial.state for trial in first.trials] == ["complete"] * 4 + ["stopped early"]
    assert first.trials[4].score is None
    assert first.trials[4].epochs == {1: 55.0, 2: 41.0}  # the third was never reached
    assert first.best.number < 4


def test_a_trial_that_fails_is_counted_and_the_others_go_on(
    tmp_path: Path, pretend: Pretend
) -> None:
    calls = iter(range(100))

    def scores(_: TrainConfig) -> Sequence[float]:
        if next(calls) == 1:
            raise NonFiniteLossError("the loss is no\nnumber")
        return [50.0]

    pretend(scores)
    (first, *others) = _search(_config(), tmp_path).run(3)
    assert [trial.state for trial in first.trials] == ["complete", "failed", "complete"]
    assert first.trials[1].why == "the loss is no number"
    assert all(trial.state == "complete" for each in others for trial in each.trials)


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path, pretend: Pretend) -> None:
    given = iter([[float("nan")]])
    pretend(lambda _: next(given, [50.0]))
    (first, *_) = _search(_config(), tmp_path).run(2)
    assert [trial.state for trial in first.trials] == ["failed", "complete"]
    assert first.best.number == 1


def test_a_candidate_without_a_finished_trial_is_one_error(
    tmp_path: Path, pretend: Pretend
) -> None:
    def scores(_: TrainConfig) -> Sequence[float]:
        raise NonFiniteLossError("as its author has it")

    pretend(scores)
    with pytest.raises(RunError, match=r"the student alone: no trial .* as its author has it"):
        _search(_config(), tmp_path).run(2)


def test_what_is_a_bug_is_no_failed_trial(tmp_path: Path, pretend: Pretend) -> None:
    def scores(_: TrainConfig) -> Sequence[float]:
        raise ZeroDivisionError

    pretend(scores)
    with pytest.raises(ZeroDivisionError):
        _search(_config(), tmp_path).run(1)


# Again, and on


def _of(tuned: Sequence[Tuned]) -> list[tuple[Trial, ...]]:
    return [each.trials for each in tuned]


def _bowl(config: TrainConfig) -> list[float]:
    """Return scores that are best at a learning rate of 0.004."""
    return [100 - abs(config.lr - 0.004) * 1000]


def test_the_same_search_gives_the_same_trials_and_other_seeds_others(
    tmp_path: Path, pretend: Pretend
) -> None:
    pretend(_bowl)
    first = _of(_search(_config(), tmp_path / "one").run(6))
    torch.rand(3)
    assert _of(_search(_config(), tmp_path / "two").run(6)) == first
    assert _of(_search(_config("seeds=[5]"), tmp_path / "three").run(6)) != first


def test_a_search_goes_on_where_it_ended_and_is_as_one_of_one_piece(
    tmp_path: Path, pretend: Pretend
) -> None:
    seeds = pretend(_bowl)
    whole = _of(_search(_config(), tmp_path / "one").run(7))
    assert _of(_search(_config(), tmp_path / "two").run(3)) == [each[:3] for each in whole]
    seeds.clear()
    assert _of(_search(_config(), tmp_path / "two").run(7)) == whole
    assert len(seeds) == 4 * 4
    seeds.clear()
    assert _of(_search(_config(), tmp_path / "two").run(7)) == whole
    assert not seeds
    _search(_config("train.batch_size=16"), tmp_path / "two").run(1)  # is another search
    assert len(seeds) == 4


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_search_that_died_within_a_trial_does_it_again(
    tmp_path: Path, pretend: Pretend, at: int
) -> None:
    pretend(_bowl)
    whole = _of(_search(_config(), tmp_path / "one").run(6))
    calls = iter(range(100))

    def dies(config: TrainConfig) -> Sequence[float]:
        if next(calls) == at:
            raise KeyboardInterrupt
        return _bowl(config)

    pretend(dies)
    with pytest.raises(KeyboardInterrupt):
        _search(_config(), tmp_path / "two").run(6)
    assert _of(_search(_config(), tmp_path / "two").run(6)) == whole


# What was found


def test_what_was_found_is_a_comparison_with_the_seeds_of_the_file_and_equal_teachers(
    tmp_path: Path, pretend: Pretend
) -> None:
    pretend(_bowl)
    config = _config("task_weight=0.5")
    tuned = _search(config, tmp_path).run(5)
    best = best_of(config, tuned)
    file = tmp_path / "tuned.toml"
    file.write_text(as_toml(best), encoding="utf-8")
    read = as_comparison(read_file(file), "tuned")
    assert read == best
    assert read.seeds == (1, 2)
    assert read.teacher_train() == config.teacher_train()
    assert [each.label for each in read.candidates] == LABELS[1:]
    values = {each.label: each.best.values for each in tuned}
    assert read.train.lr == values["student"]["lr"] != config.train.lr
    for candidate in read.candidates:
        (stage,), found = candidate.plan, values[candidate.label]
        assert read.stage_train(stage).lr == found["lr"]
        assert stage.task_weight == found["0.task_weight"]
        assert stage.strategies[0].weight == found["0.0.weight"]
    logits = read.candidates[0].plan[0].strategies[0]
    assert logits.settings["temperature"] == values["logits"]["0.0.temperature"]
    unchanged = {"train", "candidates", "teacher", "task_weight"}
    assert read.model_dump(exclude=unchanged) == config.model_dump(exclude=unchanged)


def test_what_was_found_is_trained_again_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    on_epoch = Watch.on_epoch

    def hears(self: Watch, record: EpochRecord) -> None:
        heard.append(record.loss)
        on_epoch(self, record)

    monkeypatch.setattr(Watch, "on_epoch", hears)
    config = _config("train.epochs=2").model_copy(update={"candidates": _config().candidates[:1]})
    student, candidate = _search(config, tmp_path / "tune", seeds=[7]).run(2)
    tuned = best_of(config, [student, candidate]).model_copy(update={"seeds": (7,)})
    read = as_comparison(tomllib.loads(as_toml(tuned)), "tuned.toml")
    console = Console(quiet=True)
    _, alone, own = compare(RunContext(read, tmp_path / "compare", console), read)
    for found, run, before in ((student, alone, 0), (candidate, own, 4)):
        at = before + 2 * found.best.number
        assert [each["loss"] for each in run.epochs] == heard[at : at + 2]
        scores = [each["validation"]["accuracy"] for each in run.epochs]
        assert max(scores) == found.best.score


def test_the_record_names_settings_as_users_do(tmp_path: Path, pretend: Pretend) -> None:
    pretend(_bowl)
    search = _search(_config(), tmp_path, seeds=[7])
    search.run(2)
    record = json.loads((tmp_path / TRIALS).read_text())
    assert record["metric"] == "accuracy"
    assert record["seeds"] == [7]
    logits = record["candidates"][1]
    names = [each["path"] for each in logits["searched"]]
    assert names == [
        "train.lr",
        "candidates.logits.task_weight",
        "candidates.logits.strategies.logits.weight",
        "candidates.logits.strategies.logits.temperature",
    ]
    assert [list(trial["values"]) for trial in logits["trials"]] == [names] * 2


def _key(search: Search, label: str = "logits") -> str:
    """Return the hash of what a candidate's trials depend on."""
    (sought,) = (each for each in search._sought if each.label == label)
    return search._key(sought)


def test_trials_depend_on_what_only_the_teacher_is_given(tmp_path: Path) -> None:
    keys = [
        _key(_search(_config(f"teacher.mean=[{mean}, 0.5, 0.5]"), tmp_path)) for mean in (0.1, 0.4)
    ]
    search = _search(_config(), tmp_path)
    before = _key(search)
    data = search._context.data
    changed = replace(data.teachers["teacher"], fingerprint="other images")
    search._context.data = replace(data, teachers={"teacher": changed})
    assert len({*keys, before, _key(search)}) == 4


def test_a_search_begins_anew_where_the_users_metric_was_edited(
    tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "how_far.py"
    file.write_text("def far(outputs, targets):\n    return outputs[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    seeds = pretend(lambda config: [config.lr])
    config = _config(
        "task={kind = 'none', metric = 'how_far:far', metric_name = 'accuracy'}",
        "candidates=[{strategies = [{name = 'logits'}]}]",
    )
    (first,) = _search(config, tmp_path / "out").run(2)
    assert len(seeds) == 2
    (tmp_path / "beside.py").write_text("other = 1\n")
    (again,) = _search(config, tmp_path / "out").run(2)
    assert len(seeds) == 2  # what is as it was goes on, and has nothing left to do
    assert again.trials == first.trials
    file.write_text("def far(outputs, targets):\n    return outputs[:, 1]\n")
    _search(config, tmp_path / "out").run(2)
    assert len(seeds) == 4


def test_trials_depend_on_the_source_of_wrappers(
    tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "around_hooks.py"
    file.write_text("class Around:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    pretend(lambda config: [config.lr])
    search = _search(_config(), tmp_path / "out")
    without = _key(search)
    search._context.wrappers = {"around": importlib.import_module("around_hooks").Around()}
    before = _key(search)
    assert before == _key(search) != without
    file.write_text("class Around:\n    changed = True\n")
    assert _key(search) not in (before, without)
