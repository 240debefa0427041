"""The documentation against the code: its blocks run, its signatures and tables are the code's."""

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import kdcore
from kdcore.comparison import rehearse
from kdcore.configfile import as_comparison, as_run
from kdcore.context import RunContext
from kdcore.hookspecs import HOOKS, Hooks, hookimpl
from kdcore.weights import Moving
from tests.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")])


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize(
    "name", ["README.md", "docs/write-a-strategy.md", "docs/tasks.md", "docs/teachers.md"]
)
def test_the_python_blocks_of_a_page_run_one_after_the_other(name: str) -> None:
    blocks = _blocks(ROOT / name, "python")
    assert blocks
    names: dict[str, object] = {"__name__": "documentation"}
    for block in blocks:
        exec(compile(block, name, "exec"), names)


def test_the_shown_strategies_are_strategies_that_pass_the_kit() -> None:
    from kdcore.testing import run_checks

    for page, name in (("README.md", "Hint"), ("docs/write-a-strategy.md", "ICKD")):
        names: dict[str, object] = {"__name__": "documentation"}
        block = next(b for b in _blocks(ROOT / page, "python") if f"class {name}" in b)
        exec(compile(block, page, "exec"), names)
        strategy = names[name]
        assert isinstance(strategy, type)
        assert issubclass(strategy, kdcore.Strategy)
        failed = [str(result) for result in run_checks(strategy) if result.failed]
        assert not failed


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hook_reference_has_the_exact_signature(hook: str) -> None:
    arguments = ", ".join(list(inspect.signature(getattr(Hooks, hook)).parameters)[1:])
    assert f"`{hook}({arguments})" in (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")


def test_the_pages_of_keys_and_of_methods_have_the_tables_of_the_source() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()
    names = ["configuration.md", "strategies.md", "commands.md"]
    assert [page.name for page in pages] == names
    for page, text in pages.items():
        assert text == page.read_text(encoding="utf-8")


def test_the_experiment_file_that_is_shown_is_valid() -> None:
    block, weights, stages = _blocks(ROOT / "docs" / "configuration.md", "toml")
    assert as_run(tomllib.loads(block), "shown").strategies[0].settings == {"temperature": 2.0}
    assert isinstance(as_run(tomllib.loads(weights), "weights").task_weight, Moving)
    assert len(as_run(tomllib.loads(stages), "stages").plan) == 2


def test_the_comparison_of_several_teachers_that_is_shown_is_valid_and_can_be_set_up(
    tmp_path: Path,
) -> None:
    (block,) = _blocks(ROOT / "docs" / "teachers.md", "toml")
    tree = tomllib.loads(block) | {"data": {"limit": 20}, "device": "cpu", "seeds": [42]}
    config = as_comparison(tree, "shown")
    assert list(config.teachers_by_name) == ["big", "small", "both", "self"]
    context = RunContext(config, tmp_path, Console(quiet=True))
    models = context.new_teachers(42)
    for plan, said in zip(config.plans, ("both", "self", "small"), strict=True):
        assert any(f"learns from {said}" in line for line in rehearse(context, 42, models, plan))


def test_the_files_of_other_tasks_that_are_shown_are_valid() -> None:
    blocks = _blocks(ROOT / "docs" / "tasks.md", "toml")
    kinds = [as_run(tomllib.loads(block), "shown").task.kind for block in blocks]
    assert kinds == ["regression", "sequences"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_method() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    listed = text.partition("each a package of its own: ")[2].partition(" (")[0]
    assert sorted(re.split(", | and ", listed)) == SHIPPED
    assert len(SHIPPED) == 17
    assert text.count("Seventeen methods are here") == 1


def test_the_changelog_names_every_command() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for command in (ROOT / "kdcore" / "cli").glob("*.py"):
        if command.stem not in ("__init__", "main", "options"):
            assert f"kdcore {command.stem.replace('_', '-')}" in text


def test_every_name_of_kdcore_that_prose_has_is_exported() -> None:
    found = {
        name
        for page in PAGES
        for name in re.findall(r"`kdcore\.([A-Za-z]+)[`(]", page.read_text(encoding="utf-8"))
    }
    others = {"testing", "trainer", "wrappers", "strategies"}  # modules, groups of entry points
    assert found - others
    assert found - others <= set(kdcore.__all__)


def test_the_page_on_stability_names_what_is_public_and_nothing_else() -> None:
    import kdcore.testing

    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    for module in (kdcore, kdcore.testing):
        said = (
            text.partition(f"**Names of `{module.__name__}`**")[2]
            .partition(". Checks may")[0]
            .partition(".\n- ")[0]
        )
        assert set(re.findall(r"`(\w+)`", said)) == set(module.__all__)


def test_the_hook_reference_tells_the_order_of_the_calls() -> None:
    """As they are made: recorded around three strategies, and read off the page."""
    order: list[str] = []

    class Recorder:
        @hookimpl(wrapper=True)
        def extract_features(self, label: str) -> Any:
            order.append(f"extract_features {label}")
            return (yield)

        @hookimpl(wrapper=True)
        def adapt_shapes(self, label: str) -> Any:
            order.append(f"adapt_shapes {label}")
            return (yield)

        @hookimpl(wrapper=True)
        def compute_auxiliary_loss(self, label: str) -> Any:
            order.append(f"compute_auxiliary_loss {label}")
            return (yield)

    labels = ["fitnets", "logits", "attention"]
    teacher, student = kdcore.testing.small_teacher(), kdcore.testing.small_student()
    images = torch.rand(2, 3, 16, 16)
    ran = ["student", "teacher"]
    for name, model in zip(ran, (student, teacher), strict=True):
        model.register_forward_hook(lambda *_, name=name: order.append(name))
    with kdcore.Distiller(
        teacher, student, labels, sample_input=images, wrappers={"recorder": Recorder()}
    ) as distiller:
        distiller(images)
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8").partition("## Order")[2]
    numbered = re.findall(r"^\d\. (?:`(\w+)`|(one small batch))", page, flags=re.M)
    steps = [hook or "batch" for hook, _ in numbered]
    assert steps == ["extract_features", "batch", "adapt_shapes", "compute_auxiliary_loss"]
    # A strategy without a hook is not asked: of these three, all have the first but `logits`.
    asked = {hook: [line for line in order if line.startswith(hook)] for hook in HOOKS}
    for hook, lines in asked.items():
        has = [each for each in labels if f"{hook} {each}" in lines]
        assert lines == [f"{hook} {each}" for each in has]
        assert len(has) >= 2
    first = {hook: order.index(lines[0]) for hook, lines in asked.items()}
    last = {hook: len(order) - 1 - order[::-1].index(lines[-1]) for hook, lines in asked.items()}
    probed = [order.index(name) for name in ran]
    assert last["extract_features"] < min(probed)
    assert max(probed) < first["adapt_shapes"]
    assert last["adapt_shapes"] < first["compute_auxiliary_loss"]
