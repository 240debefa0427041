"""The documentation against the code: its blocks run, its signatures and tables are the code's."""

import ast
import importlib.util
import inspect
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.exceptions import TyperException

import kdcore
import kdcore.testing
from kdcore.comparison import rehearse
from kdcore.configfile import as_comparison, as_run
from kdcore.context import RunContext
from kdcore.hookspecs import HOOKS, Hooks, hookimpl
from kdcore.job import RunResult
from kdcore.measured import Measured
from kdcore.tables import TABLES, Images, experiment_of, settings_digest
from kdcore.tasks import ACCURACY
from kdcore.weights import Moving
from tests.pages import (
    DOCS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    broken,
    commands,
    links,
    mentioned,
    parse,
    text_of,
    unknown,
)
from tests.shipped import SHIPPED

FRAGMENT = "# fragment:"
"""How a block begins that is a part of something, says of what, and does not run by itself."""


def _blocks(page: Path, language: str) -> list[str]:
    return blocks(text_of(page), language)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=_name)


@pytest.mark.parametrize("page", [each for each in PAGES if _blocks(each, "python")], ids=_name)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: Path) -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    for block in _blocks(page, "python"):
        if not block.startswith(FRAGMENT):
            exec(compile(block, str(page), "exec"), names)


def test_one_block_alone_is_a_fragment() -> None:
    found = [block for page in PAGES for block in _blocks(page, "python")]
    assert len(found) >= 12
    assert [block.splitlines()[0] for block in found if block.startswith(FRAGMENT)] == [
        "# fragment: inside of compute_auxiliary_loss"
    ]


@every_page
def test_the_commands_of_a_page_are_those_that_there_are(page: Path) -> None:
    for arguments in commands(text_of(page)):
        parse(arguments)
    assert [each for arguments in mentioned(text_of(page)) for each in unknown(arguments)] == []


def test_commands_are_found_in_the_pages() -> None:
    assert sum(len(commands(text_of(page))) for page in PAGES) >= 40
    assert sum(len(mentioned(text_of(page))) for page in PAGES) >= 40
    shown = (
        "```\nuv run kdcore compare --seeds 1,2 \\\n    --epochs 3  # words\n"
        "torchrun --nproc-per-node 4 -m kdcore run f.toml\n```\n"
        "```python\nkdcore compare\n```\nas `kdcore cache\nlist --json` does\n"
    )
    assert commands(shown) == [["compare", "--seeds", "1,2", "--epochs", "3"], ["run", "f.toml"]]
    assert mentioned(shown) == [["cache", "list", "--json"]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("compare --stratgies logits", "--stratgies"),
        ("compare --epochs many", "--epochs"),
        ("export", "run"),
        ("distil", "distil"),
        ("cache lst", "lst"),
    ],
)
def test_a_command_that_is_not_there_is_found(wrong: str, said: str) -> None:
    with pytest.raises(TyperException) as caught:
        parse(wrong.split())
    assert said in caught.value.format_message()


@pytest.mark.parametrize("wrong", ["compare --stratgies logits", "distil FILE", "cache lst"])
def test_a_mention_of_what_is_not_there_is_found(wrong: str) -> None:
    assert unknown(wrong.split()) != []


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


def _generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


def _run(row: str, seed: int, score: float) -> RunResult:
    scores = {"accuracy": score}
    run = RunResult(row, seed, scores, 0.5, 60.0, (), None, None, "", (ACCURACY,))
    return replace(run, samples="photos")


def _table(name: str, row: str, scores: list[float], missing: int = 0) -> Measured:
    runs = [_run(row, 42 + place, each) for place, each in enumerate(scores)]
    about = ("photos: 9 images",)
    return Measured(name, "", "folder", about, missing, "2026-01-02", "here", 600, tuple(runs))


def test_a_page_has_what_was_saved_and_says_what_is_missing() -> None:
    page = "<!-- measured: strong -->\nstale<!-- end -->\n<!-- measured: crd -->\n<!-- end -->"
    saved = {"strong": _table("strong", "distilled", [76.0, 77.0], missing=5)}
    text = _generate().with_tables(page, saved)
    assert "`kdcore reproduce strong --data folder --root DIR`; photos: 9 images." in text
    assert "10 minutes of training in all. 5 of its students were not trained." in text
    assert "| distilled | 76.50 ± 0.71 |" in text
    assert "Not measured here yet; `kdcore reproduce crd --root DIR` makes it." in text
    assert "stale" not in text


def test_what_gains_cost_is_drawn_of_tables_over_all_methods() -> None:
    runs = [_run(row, seed, 60 + seed) for row in ("student", "a", "b") for seed in (1, 2)]
    saved = {name: replace(_table(name, "a", []), results=tuple(runs)) for name in TABLES}
    drawn = _generate().pictures(saved)
    assert [file.name for file in drawn] == ["second-pair.png"]
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())
    assert _generate().pictures({"second-pair": _table("second-pair", "a", [60.0])}) == {}


def test_claims_are_paired_by_seed_where_both_tables_were_saved() -> None:
    saved = {
        "tutorial": _table("tutorial", "student", [68.0, 68.5, 70.0]),
        "strong": _table("strong", "distilled", [76.0, 77.0]),
    }
    lines = _generate().claims(saved).splitlines()
    assert lines[2] == (
        "| strong, 10 epochs, over the tutorial's student alone | +8.25 (+5.07 to +11.43) | 2 |"
    )
    assert lines[3:] == [  # its own control is not in what was saved
        "",
        "Over the seeds of both, student alone of tutorial had 68.25 (42, 43).",
    ]
    saved["tutorial"] = _table("tutorial", "student", [68.0, 68.5])
    assert len(_generate().claims(saved).splitlines()) == 3


def test_the_command_of_a_table_says_that_a_teacher_was_given() -> None:
    run = _run("teacher", 42, 80.0)
    for origin, said in (
        ("random", "--root DIR`"),
        ("net.safetensors", "--root DIR --teacher FILE`"),
    ):
        table = _table("strong", "student", [70.0])
        table = replace(table, results=(replace(run, origin=origin), *table.results))
        text = _generate().block("strong", {"strong": table})
        assert text.startswith(f"`kdcore reproduce strong --data folder {said}; ")


def test_the_pages_of_keys_and_of_methods_have_the_tables_of_the_source() -> None:
    pages = _generate().pages()
    names = ["configuration.md", "strategies.md", "commands.md"]
    names += ["results.md", "recipes.md", "README.md"]
    assert [page.name for page in pages] == names
    for page, text in pages.items():
        assert text == page.read_text(encoding="utf-8")


MEASURED = sorted((ROOT / "docs" / "measured").glob("*.json"))


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: file.stem)
def test_a_table_was_made_with_the_settings_that_make_it_today(file: Path) -> None:
    found = Measured.read(file)
    images = Images(Path("images"), found.data) if TABLES[file.stem].images else Images()
    assert found.name == file.stem
    assert found.settings == settings_digest(experiment_of(file.stem, images))


def test_every_table_has_a_place_in_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- measured: ([\w-]+) -->", page)
    assert sorted(shown) == sorted([*TABLES, "claims"])


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


@every_page
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `name`, and more\n\n## Twice\n\n## Twice\n")
    good = "[a](there.md#a-name-and-more) [b](there.md#twice-1) [c](#here) [d](https://x.org/y)"
    wrong = ["gone.md", "there.md#twice-2", "#gone", "gone.png"]
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n\n{good}\n`[no](link.md)`\n```\n[no](link.md)\n```\n")
    assert broken(page) == []
    written = page.read_text(encoding="utf-8")
    page.write_text(
        f"{written}\n[a]({wrong[0]}) [b]({wrong[1]}) [c]({wrong[2]}) ![d]({wrong[3]})\n"
    )
    assert broken(page) == wrong
    assert anchors("# A\n```\n# no heading\n```\n") == {"a"}


def test_every_page_is_reached_from_the_readme_and_is_in_the_site() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.suffix in (".md", ".ipynb"):
            targets = [
                (page.parent / link.partition("#")[0]).resolve() for link in links(text_of(page))
            ]
            waiting += [target for target in targets if target.is_file()]
    examples = [*(ROOT / "docs" / "examples").glob("*.py")]
    assert len(examples) == 3
    assert [_name(page) for page in [*PAGES, *examples] if page not in seen] == []
    index = ROOT / "docs" / "index.md"
    listed = [
        line.partition("<")[2].rstrip(">") or line
        for tree in blocks(text_of(index), "{toctree}")
        for line in tree.split()
        if not line.startswith(":")
    ]
    left_out = {str(page.relative_to(index.parent).with_suffix("")) for page in DOCS} - {*listed}
    assert left_out == {"index"}


def test_the_page_of_public_names_has_all_of_them_once() -> None:
    import kdcore.testing

    found = re.findall(r"^\.\. auto\w+:: (\S+)$", text_of(ROOT / "docs" / "api.md"), re.MULTILINE)
    public = [
        f"{each.__name__}.{name}" for each in (kdcore, kdcore.testing) for name in each.__all__
    ]
    assert sorted(found) == sorted(public)


def test_the_page_for_authors_has_the_signature_of_every_helper_that_losses_are_made_of() -> None:
    part = text_of(ROOT / "docs" / "api.md").partition("## What losses are made of")[2]
    names = re.findall(r":: kdcore\.(\w+)", part.partition("\n## ")[0])
    assert {"divergence", "gathered", "regressor", "Flatten"} <= {*names}
    page = text_of(ROOT / "docs" / "write-a-strategy.md").partition("## The vocabulary")[2]
    shown = re.findall(r"^\| `(\w+\(.*?\))` \|", page.partition("\n## ")[0], re.MULTILINE)
    assert sorted(shown) == sorted(map(_signature, names))


def _signature(name: str) -> str:
    helper = getattr(kdcore, name)
    if isinstance(helper, type) and "__init__" not in vars(helper):
        return f"{name}()"  # PyTorch's own, which takes anything
    signature = inspect.signature(helper)
    plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return f"{name}{inspect.Signature(plain)}"


def test_everything_that_shipped_methods_import_is_on_the_page_of_public_names() -> None:
    found = {
        name
        for file in ROOT.glob("plugins/*/src/*/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "kdcore"
        for name in (f"{node.module}.{each.name}" for each in node.names)
    }
    assert "kdcore.divergence" in found
    listed = re.findall(r"^\.\. auto\w+:: (\S+)$", text_of(ROOT / "docs" / "api.md"), re.MULTILINE)
    assert found - {*listed} == set()


def test_the_label_of_a_strategy_decides_its_random_numbers_as_the_pages_say() -> None:
    def weights(label: str, seed: int = 0) -> torch.Tensor:
        entry = {"name": "fitnets", "label": label}
        models = kdcore.testing.small_teacher(), kdcore.testing.small_student()
        sample = torch.zeros(2, 3, 16, 16)
        with kdcore.Distiller(*models, [entry], sample_input=sample, seed=seed) as distiller:
            return torch.cat(
                [each.detach().flatten() for each in distiller.strategies.parameters()]
            )

    assert torch.equal(weights("one"), weights("one"))
    assert not torch.equal(weights("one"), weights("other"))
    assert not torch.equal(weights("one"), weights("one", seed=1))
    for page in ("hooks.md", "write-a-strategy.md", "configuration.md"):
        text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
        assert re.search(r"seed and (the strategy's|its) label", text)


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
    others = {
        "card",
        "testing",
        "trainer",
        "wrappers",
        "strategies",
    }  # modules, groups of entry points
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
