"""The conformance kit: sound strategies pass, and each fault is found by its own check."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import kdcore
from kdcore.catalog import Catalog
from kdcore.errors import CatalogError, ConfigError
from kdcore.testing import CheckResult, SmallCNN, StrategyTests, checks, run_checks
from kdcore.testing.case import Case
from kdcore.testing.check import run_all, run_check
from kdcore_contrastive import Contrastive
from kdcore_relational import Relational
from tests.testing import broken

NAMES = [check.name for check in checks()]
UNSTABLE = {"equal_seeds_give_equal_values", "total_is_the_weighted_sum"}

COSTLY = {"compiled_models_give_the_same", "two_processes_agree"}
"""Which take a second or more each; of other faults they are tried with the slow tests."""

FOUND: list[tuple[type[kdcore.Strategy], set[str]]] = [
    (broken.IgnoresExtras, {"settings_refuse_extras"}),
    (broken.ReadsPercent, {"settings_survive_json"}),
    (broken.SaysNothing, {"settings_are_described"}),
    (broken.AsksForMore, {"hooks_are_as_specified"}),
    (broken.AnswersNothing, {"hooks_are_as_specified"}),
    (broken.AnswersAList, {"hooks_are_as_specified"}),
    (broken.Raises, {"hooks_are_as_specified"}),
    (broken.AveragesNothing, {"loss_is_a_vector_or_a_scalar"}),
    (broken.Counts, {"loss_is_a_vector_or_a_scalar"}),
    (broken.Detaches, {"gradient_reaches_all_that_learns"}),
    (broken.TrainsItselfAlone, {"gradient_reaches_all_that_learns"}),
    (broken.ForgetsALayer, {"gradient_reaches_all_that_learns"}),
    (broken.TakesTheLogOfZero, {"loss_is_finite"}),
    (broken.TakesTheRootOfZero, {"loss_is_finite"}),
    (broken.NormalisesTheBatch, {"a_batch_of_one_works"}),
    (broken.NeedsLabels, {"samples_need_no_label"}),
    (broken.KnowsFloat32, {"float64_stays_float64"}),
    (broken.RelatesRows, {"parts_add_up_to_the_batch"}),
    (broken.TrainsTheTeacher, {"teacher_is_untouched"}),
    (broken.TakesTheHead, {"teacher_is_untouched"}),
    (broken.DrawsAtSetUp, {"random_stream_is_left_alone"}),
    (broken.AddsNoise, {"random_stream_is_left_alone", "total_is_the_weighted_sum"}),
    (broken.DropsInAnAdapter, {"random_stream_is_left_alone", "total_is_the_weighted_sum"}),
    (broken.Maximises, {"equality_is_as_declared"}),
    (
        broken.WritesByPlace,
        {"memory_is_of_its_samples", "micro_batches_leave_the_same_memory"},
    ),
    (broken.AveragesAClass, {"micro_batches_leave_the_same_memory"}),
    (broken.RollsDice, UNSTABLE),
    (broken.RemembersOnTheClass, UNSTABLE),
    (broken.RemembersInAModule, {"a_resumed_run_goes_on_alike"}),
    (broken.WritesInPlace, {"arguments_are_left_alone"}),
    (broken.DividesInPlace, {"arguments_are_left_alone"}),
    (broken.SharesALayer, {"instances_do_not_interfere"}),
    (broken.LeavesAHook, {"models_leave_clean"}),
    (broken.LeavesAModule, {"models_leave_clean", "two_processes_agree"}),
    (broken.SaysNoWord, {"it_says_what_it_is"}),
    (broken.KeepsTheTemplate, {"it_says_what_it_is"}),
    (broken.IsOfAnotherTime, {"it_is_written_for_this_contract"}),
    (broken.DefaultsToTooMuch, {"settings_have_valid_defaults", "settings_survive_json"}),
    (broken.ChangesItsMind, {"settings_stay_as_they_are"}),
    (broken.TakesAnyNumber, {"settings_are_finite"}),
    (broken.HidesAFactor, {"all_that_learns_is_known"}),
    (broken.ClaimsZero, {"equality_is_as_declared"}),
    (broken.ClaimsTheSmallest, {"equality_is_as_declared"}),
    (broken.Sorts, {"rows_follow_their_samples"}),
    (broken.Ramps, {"every_epoch_has_a_loss"}),
    (broken.NeedsThreeClasses, {"two_classes_work"}),
    (broken.HangsOnDigits, {"bfloat16_layers_are_fine"}),
    (broken.Views, {"layouts_make_no_difference", "other_ranks_work_or_are_refused"}),
    (
        broken.CutsTheTeacher,
        {"a_wider_student_works", "other_depths_work", "other_ranks_work_or_are_refused"},
    ),
    (broken.KnowsOneSize, {"other_depths_work"}),
    (broken.KnowsMapsAlone, {"other_ranks_work_or_are_refused"}),
    (broken.ForgetsItsTap, {"misspelt_taps_are_named"}),
    (broken.RoundsOnLoading, {"state_survives_saving", "a_resumed_run_goes_on_alike"}),
    (broken.Overhears, {"kept_answers_change_nothing", "models_leave_clean"}),
    (broken.MatchesGradients, {"bfloat16_layers_are_fine", "compiled_models_give_the_same"}),
    (broken.WritesTheMean, {"micro_batches_leave_the_same_memory", "two_processes_agree"}),
]
Builders = Mapping[type[kdcore.Strategy], Callable[[], nn.Module]]
TEACHERS: Builders = {
    broken.TrainsTheTeacher: broken.kept_teacher,
    broken.TakesTheHead: broken.kept_teacher,
    broken.Overhears: broken.kept_teacher,
}
STUDENTS: Builders = {
    broken.LeavesAHook: broken.kept_student,
    broken.LeavesAModule: broken.kept_student,
}


def _case(strategy: type[kdcore.Strategy]) -> Case:
    teacher = TEACHERS.get(strategy, kdcore.testing.small_teacher)
    student = STUDENTS.get(strategy, kdcore.testing.small_student)
    return Case(strategy, teacher=teacher, student=student)


def _failed(results: list[CheckResult]) -> dict[str, str]:
    return {result.name: str(result) for result in results if result.failed}


@pytest.mark.parametrize(
    ("strategy", "expected"), FOUND, ids=[strategy.__name__ for strategy, _ in FOUND]
)
def test_a_fault_is_found_by_its_check_and_by_no_other(
    strategy: type[kdcore.Strategy], expected: set[str]
) -> None:
    tried = [check for check in checks() if check.name in expected or check.name not in COSTLY]
    results = run_all(tried, _case(strategy))
    assert _failed(results).keys() == expected
    for result in results:
        assert bool(result.reason) == (not result.passed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "expected"), FOUND, ids=[strategy.__name__ for strategy, _ in FOUND]
)
def test_nor_is_it_found_by_a_check_that_takes_long(
    strategy: type[kdcore.Strategy], expected: set[str]
) -> None:
    results = run_all([each for each in checks() if each.name in COSTLY], _case(strategy))
    assert _failed(results).keys() & COSTLY == expected & COSTLY


def test_a_fault_that_keeps_the_only_check_from_running_is_told_with_it() -> None:
    fault = next(strategy for strategy, found in FOUND if "hooks_are_as_specified" in found)
    (check,) = [each for each in checks() if each.name == "loss_is_a_vector_or_a_scalar"]
    needed, own = run_all([check], _case(fault))
    assert (needed.name, needed.outcome) == ("hooks_are_as_specified", "failed")
    assert (own.name, own.outcome) == (check.name, "skipped")
    (alone,) = run_all([check], _case(broken.Sound))
    assert alone.passed


def test_a_control_passes_every_check_that_applies_to_it() -> None:
    results = run_checks(broken.Sound)
    skipped = {
        "equality_is_as_declared",
        "memory_is_of_its_samples",
        "micro_batches_leave_the_same_memory",
        "misspelt_taps_are_named",
    }
    assert {each.name for each in results if not each.passed} == skipped


@pytest.mark.parametrize(
    ("strategy", "outcome", "reason"),
    [
        (broken.AveragesAClass, "failed", "'centres' is another after two micro-batches"),
        (broken.SaysThatItAverages, "skipped", "exact_in_micro_batches"),
        (broken.RemembersEachSample, "passed", ""),
        (broken.Sound, "skipped", "it has no memory"),
        (Contrastive, "passed", ""),
    ],
)
def test_memory_of_micro_batches_is_held_against_that_of_the_batch_unless_a_class_says_more(
    strategy: type[kdcore.Strategy], outcome: str, reason: str
) -> None:
    check = next(each for each in checks() if each.name == "micro_batches_leave_the_same_memory")
    result = run_check(check, Case(strategy))
    assert result.outcome == outcome
    assert reason in result.reason


def test_a_package_that_is_described_as_its_template_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = next(each for each in checks() if each.name == "it_says_what_it_is")
    listings = Catalog().listings()
    (own,) = [each for each in listings if each.name == "relational"]
    assert run_check(check, Case(Relational)).passed
    unwritten = replace(own, summary="TODO: what it compares")
    monkeypatch.setattr(Catalog, "listings", lambda _: [unwritten])
    result = run_check(check, Case(Relational))
    assert result.reason == (
        "the description of its package (pyproject.toml) is the template's: "
        "'TODO: what it compares'"
    )


def test_the_readme_has_the_number_of_checks() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"against {len(NAMES)} checks" in readme


def test_every_check_finds_a_fault() -> None:
    assert set().union(*(expected for _, expected in FOUND)) == set(NAMES)


def test_settings_are_handed_on() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        run_checks("logits", temperature=-1.0)
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        run_checks("logits", temperatur=1.0)


def test_a_name_that_is_not_installed_is_refused() -> None:
    with pytest.raises(CatalogError, match="did you mean 'logits'"):
        run_checks("logit")


def test_every_check_says_what_it_checks_and_how_to_mend() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for check in checks():
        for sentence in (check.claim, check.remedy):
            assert sentence.endswith(".")


def test_a_finding_is_told_with_the_way_to_mend_it() -> None:
    check = next(check for check in checks() if check.name == "settings_are_described")
    result = run_check(check, Case(broken.SaysNothing))
    assert str(result) == (
        "settings_are_described failed: the setting 'share' has no description\n"
        f"{check.claim} {check.remedy}"
    )


def test_a_check_that_needs_another_is_skipped_where_that_one_fails() -> None:
    result = run_check(checks()[-1], Case(broken.Detaches))
    assert (result.outcome, str(result)) == (
        "skipped",
        "models_leave_clean skipped: gradient_reaches_all_that_learns failed",
    )


def test_an_exception_is_kept_with_the_finding() -> None:
    check = next(check for check in checks() if check.name == "samples_need_no_label")
    result = run_check(check, Case(broken.NeedsLabels))
    assert isinstance(result.error, kdcore.KdcoreError)
    assert result.reason.startswith("StrategyError: strategy 'tried' (NeedsLabels")


def test_the_callers_random_stream_and_threads_are_as_before() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), torch.get_num_threads()
    run_checks(broken.AddsNoise)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_other_models_can_be_tried() -> None:
    case = Case(
        Relational,
        teacher=lambda: SmallCNN((4, 4), classes=7, image_size=12),
        student=lambda: SmallCNN((2, 3), classes=7, image_size=12),
        input_shape=(3, 12, 12),
    )
    assert not _failed(run_all(checks(), case))


def test_pytest_is_needed_for_the_test_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdcore, "testing", kdcore.testing)  # what is imported anew sets it
    for name in [name for name in sys.modules if name.startswith("kdcore.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytest", None)
    kit = importlib.import_module("kdcore.testing")
    assert [check.name for check in kit.checks()] == NAMES
    with pytest.raises(ImportError, match="pytest"):
        _ = kit.StrategyTests


def test_an_unknown_name_of_the_kit_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'StrategyTest'"):
        _ = kdcore.testing.StrategyTest


def _run(tests: type[StrategyTests], name: str) -> None:
    check = next(check for check in checks() if check.name == name)
    tests().test_the_strategy_conforms(check)


def test_the_test_class_passes_skips_and_fails_as_the_checks_do() -> None:
    class Tests(StrategyTests):
        strategy = broken.Detaches

    _run(Tests, "settings_refuse_extras")
    with pytest.raises(pytest.skip.Exception, match="gradient_reaches_all_that_learns failed"):
        _run(Tests, "loss_is_finite")
    with pytest.raises(AssertionError, match="undetached"):
        _run(Tests, "gradient_reaches_all_that_learns")


def test_the_test_class_takes_settings_and_models() -> None:
    class Tests(StrategyTests):
        strategy = "fitnets"
        settings = {"student_tap": "features.1", "teacher_tap": "features.0"}  # noqa: RUF012
        teacher = lambda: SmallCNN((4, 4), image_size=12)  # noqa: E731
        student = lambda: SmallCNN((2, 3), image_size=12)  # noqa: E731
        input_shape = (3, 12, 12)

    case = Tests._case()
    assert case.strategy(**case.settings).settings.model_dump()["student_tap"] == "features.1"
    _run(Tests, "loss_is_finite")


def test_an_expected_failure_is_known_and_must_fail() -> None:
    class Tests(StrategyTests):
        strategy = broken.SaysNothing
        expected_failures = {  # noqa: RUF012
            "settings_are_described": "its one setting speaks for itself",
            "settings_refuse_extras": "this one passes",
        }

    with pytest.raises(pytest.xfail.Exception, match="speaks for itself"):
        _run(Tests, "settings_are_described")
    with pytest.raises(pytest.fail.Exception, match="take it out of expected_failures"):
        _run(Tests, "settings_refuse_extras")


def test_a_misspelt_option_is_an_error_where_the_class_is_defined() -> None:
    with pytest.raises(ConfigError, match="unknown option 'seting'; did you mean 'settings'"):
        type("Tests", (StrategyTests,), {"strategy": broken.Sound, "seting": {}})
    with pytest.raises(ConfigError, match="did you mean 'expected_failures'"):
        type("Tests", (StrategyTests,), {"strategy": broken.Sound, "expected_failure": {}})


def test_an_unknown_check_is_not_expected_to_fail() -> None:
    options = {"strategy": broken.Sound, "expected_failures": {"loss_is_finit": "a slip"}}
    with pytest.raises(ConfigError, match="unknown check 'loss_is_finit'; did you mean"):
        type("Tests", (StrategyTests,), options)


def test_a_test_class_must_say_what_it_tests() -> None:
    with pytest.raises(ConfigError, match="Tests: set strategy"):
        type("Tests", (StrategyTests,), {})


def test_a_test_class_may_hold_tests_of_its_own() -> None:
    class Tests(StrategyTests):
        strategy = broken.Sound

        def test_more(self) -> None: ...

        def _helps(self) -> None: ...

    assert issubclass(Tests, StrategyTests)


def test_a_student_with_dropout_is_no_fault_of_the_strategy() -> None:
    def student() -> nn.Module:
        return nn.Sequential(SmallCNN((4, 5, 6)), nn.Dropout(0.5))

    case = Case(Relational, student=student)
    assert not [str(result) for result in run_all(checks(), case) if result.failed]


def test_an_instance_is_tried_with_its_settings() -> None:
    results = run_checks(Relational()), run_checks(Relational)
    one, other = ([(each.name, each.outcome) for each in result] for result in results)
    assert one == other
    with pytest.raises(ConfigError, match="nothing"):
        run_checks(Relational(), nothing=1)
