"""Imports run one way, plugins stand alone, and the core knows none of them."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import kdcore
import kdcore.errors
import kdcore.testing

ROOT = Path(__file__).parents[1]
CORE = ROOT / "kdcore"
PLUGINS = ROOT / "plugins"

# From bottom to top. A module imports from rows above its own in this list alone, so modules of
# one row do not know each other.
LAYERS = (
    ("kdcore.errors",),
    ("kdcore.meeting",),
    ("kdcore.processes",),
    (
        "kdcore.randomness",
        "kdcore.nested",
        "kdcore.frames",
        "kdcore.latency",
        "kdcore.statistics",
        "kdcore.files",
        "kdcore.devices",
        "kdcore.snapshot",
        "kdcore.interruption",
        "kdcore.imports",
    ),
    (
        "kdcore.validation",
        "kdcore.arrays",
        "kdcore.execution",
        "kdcore.checkpoint",
        "kdcore.freezing",
        "kdcore.sharding",
        "kdcore.teachers",
    ),
    ("kdcore.store", "kdcore.averaging"),
    # the words of the hooks, and taps
    ("kdcore.contract", "kdcore.taps"),
    ("kdcore.signals",),
    ("kdcore.hookspecs",),
    ("kdcore.strategy",),
    # what is found out about one model, and what losses are made of
    ("kdcore.probe",),
    ("kdcore.automatic", "kdcore.fingerprint"),
    ("kdcore.survey",),
    ("kdcore.adapters", "kdcore.losses", "kdcore.tasks"),
    ("kdcore.positions", "kdcore.values"),
    # configuration, and what is installed
    ("kdcore.sections",),
    ("kdcore.weights", "kdcore.teaching", "kdcore.task_kinds"),
    ("kdcore.experiment",),
    ("kdcore.configfile",),
    ("kdcore.catalog",),
    # strategies in a run
    ("kdcore.ensemble",),
    ("kdcore.selection", "kdcore.part", "kdcore.teacher"),
    ("kdcore.moving",),
    ("kdcore.assembly", "kdcore.answers"),
    ("kdcore.auxiliary",),
    ("kdcore.distiller",),
    ("kdcore.parallel",),
    # data
    (
        "kdcore.data.geometry",
        "kdcore.data.folder",
        "kdcore.data.order",
        "kdcore.data.chance",
        "kdcore.data.randaugment",
    ),
    ("kdcore.data.images", "kdcore.data.preprocess"),
    (
        "kdcore.data.pixels",
        "kdcore.data.split",
        "kdcore.data.files",
        "kdcore.data.table",
        "kdcore.data.augment",
    ),
    ("kdcore.data.source", "kdcore.data.cifar", "kdcore.data.digits"),
    ("kdcore.data.labels",),
    ("kdcore.data.load", "kdcore.data.feed", "kdcore.data.named"),
    # models, and data as they want it
    ("kdcore.models.tutorial", "kdcore.models.cifar"),
    (
        "kdcore.models.offer",
        "kdcore.models.answer",
    ),
    (
        "kdcore.models.from_torchvision",
        "kdcore.models.from_timm",
        "kdcore.models.from_huggingface",
    ),
    ("kdcore.models.build",),
    ("kdcore.data.prepared",),
    ("kdcore.resolved", "kdcore.card"),
    # the loop
    (
        "kdcore.optimizers",
        "kdcore.evaluation",
        "kdcore.listening",
        "kdcore.readings",
        "kdcore.outcome",
        "kdcore.costs",
    ),
    ("kdcore.asking",),
    ("kdcore.cache",),
    ("kdcore.history", "kdcore.saving"),
    ("kdcore.shares",),
    ("kdcore.trainer", "kdcore.tensorboard"),
    ("kdcore.progress", "kdcore.job", "kdcore.api", "kdcore.pooling"),
    # runs
    ("kdcore.context",),
    ("kdcore.training",),
    ("kdcore.faculty",),
    ("kdcore.run",),
    ("kdcore.joblist",),
    ("kdcore.comparison", "kdcore.space"),
    ("kdcore.trials",),
    ("kdcore.tuning",),
    ("kdcore.shipping.record",),
    # reports
    ("kdcore.report.rows", "kdcore.report.analysis", "kdcore.report.svg", "kdcore.report.folder"),
    ("kdcore.report.table", "kdcore.report.html", "kdcore.report.study", "kdcore.report.gather"),
    ("kdcore.report.figures",),
    (
        "kdcore.report.scores",
        "kdcore.report.samples",
        "kdcore.report.trust",
        "kdcore.report.settings",
    ),
    ("kdcore.report.page",),
    ("kdcore.report.write",),
    ("kdcore.report",),
    # measuring
    ("kdcore.bench.measure", "kdcore.bench.work"),
    (
        "kdcore.bench.plain",
        "kdcore.bench.bound",
        "kdcore.bench.ours",
        "kdcore.bench.keeping",
        "kdcore.bench.table",
    ),
    ("kdcore.bench.methods", "kdcore.bench.parts"),
    ("kdcore.bench.cases",),
    # a student to ship
    ("kdcore.shipping.extras", "kdcore.shipping.graph"),
    (
        "kdcore.shipping.student",
        "kdcore.shipping.formats",
        "kdcore.shipping.opened",
        "kdcore.shipping.verify",
        "kdcore.shipping.quantize",
        "kdcore.shipping.readme",
    ),
    ("kdcore.shipping.export", "kdcore.shipping.predict"),
    ("kdcore.shipping.choice",),
    ("kdcore.comparing",),
    # the conformance kit
    ("kdcore.testing.models",),
    ("kdcore.testing.case",),
    ("kdcore.testing.check",),
    (
        "kdcore.testing.inputs",
        "kdcore.testing.loss",
        "kdcore.testing.settings",
        "kdcore.testing.training",
    ),
    ("kdcore.testing.pair",),
    ("kdcore.testing.engine",),
    ("kdcore.testing.table",),
    ("kdcore.testing.suite",),
    ("kdcore.testing",),
    # the public names, which import their modules when they are first used
    ("kdcore",),
    # the command line
    ("kdcore.scaffold",),
    ("kdcore.cli.options",),
    (
        "kdcore.cli.compare",
        "kdcore.cli.run",
        "kdcore.cli.report",
        "kdcore.cli.tune",
        "kdcore.cli.export",
        "kdcore.cli.predict",
        "kdcore.cli.strategies",
        "kdcore.cli.check",
        "kdcore.cli.layers",
        "kdcore.cli.new_strategy",
        "kdcore.cli.cache",
        "kdcore.cli.bench",
    ),
    ("kdcore.cli.main",),
    ("kdcore.__main__",),
)

UPWARDS = {
    ("kdcore.catalog", "kdcore"): "the version is a constant there, and none of the lazy names",
}

# Words that a plugin's name shares with the core's own vocabulary, by module.
SHARED_WORDS = {
    ("kdcore.sections", "cosine"): "a schedule of the learning rate",
    ("kdcore.optimizers", "cosine"): "a schedule of the learning rate",
    ("kdcore.weights", "cosine"): "how a weight moves",
    ("kdcore.taps", "logits"): "where a model's output keeps its logits",
    ("kdcore.shipping.graph", "logits"): "what the output of an exported student is called",
    ("kdcore.signals", "logits"): "what a teacher's logits are called among its signals",
}

# Modules whose text for people mentions a plugin; no code depends on it.
MENTIONS = {
    "kdcore.cli.compare": "an example in its help",
    "kdcore.cli.strategies": "an example in its help, and what to install where nothing is",
    "kdcore.configfile": "the form that --strategies expects",
}


def _module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _trees() -> dict[str, ast.Module]:
    """Return the core's modules by name, those left out that hold a docstring alone."""
    trees = {
        _module_of(path, ROOT): ast.parse(path.read_text(encoding="utf-8"))
        for path in CORE.rglob("*.py")
    }
    return {name: tree for name, tree in trees.items() if len(tree.body) > 1}


def _imports(tree: ast.AST, modules: Sequence[str]) -> Iterator[str]:
    """Yield what a tree imports, at any depth; of packages those of their modules that it names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else str(node.module)


def _core_imports() -> dict[str, set[str]]:
    trees = _trees()
    return {
        name: {
            target for target in _imports(tree, list(trees)) if re.match(r"kdcore(\.|$)", target)
        }
        - {name}
        for name, tree in trees.items()
    }


def _wrong_way(
    imports: Mapping[str, set[str]], layers: Sequence[Sequence[str]]
) -> set[tuple[str, str]]:
    """Return the imports that do not lead to a lower layer."""
    row = {module: position for position, layer in enumerate(layers) for module in layer}
    return {
        (module, target)
        for module, targets in imports.items()
        for target in targets
        if row[target] >= row[module]
    }


def _plugins() -> list[Path]:
    return sorted(path.parent for path in PLUGINS.glob("*/pyproject.toml"))


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _package(plugin: Path) -> str:
    return plugin.name.replace("-", "_")


def _entry_names(plugin: Path) -> set[str]:
    return set(_project(plugin)["project"]["entry-points"]["kdcore.strategies"])


def _text(tree: ast.Module) -> Iterator[str]:
    """Yield the strings of a module, docstrings left out."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            yield str(node.value)


# Within the core


def test_every_module_of_the_core_has_one_place_in_the_order() -> None:
    placed = [module for layer in LAYERS for module in layer]
    assert sorted(placed) == sorted(_trees())


def test_imports_lead_to_lower_layers_alone() -> None:
    assert _wrong_way(_core_imports(), LAYERS) == set(UPWARDS)


def test_every_import_is_judged_also_inside_functions_and_for_type_checkers() -> None:
    source = """
import kdcore.errors
from kdcore import __version__
from kdcore.cli import run, options as chosen
def function():
    from kdcore.taps import TapAddress
    class Inner:
        def method(self):
            import kdcore.part as part
if TYPE_CHECKING:
    from kdcore.api import distill
"""
    modules = ["kdcore.cli.run", "kdcore.cli.options"]
    assert set(_imports(ast.parse(source), modules)) == {
        "kdcore.errors",
        "kdcore",
        "kdcore.cli.run",
        "kdcore.cli.options",
        "kdcore.taps",
        "kdcore.part",
        "kdcore.api",
    }


def test_an_import_of_the_own_layer_or_one_above_is_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": set[str]()}
    assert _wrong_way(imports, [["c"], ["b"], ["a"]]) == set()
    assert _wrong_way(imports, [["c"], ["a", "b"]]) == {("a", "b")}
    assert _wrong_way(imports, [["a"], ["b"], ["c"]]) == {("a", "b"), ("b", "c")}


# Plugins


@pytest.mark.parametrize("plugin", _plugins(), ids=lambda plugin: plugin.name)
def test_a_plugin_imports_of_kdcore_only_what_it_exports_and_no_other_plugin(plugin: Path) -> None:
    others = {_package(other) for other in _plugins() if other != plugin}
    files = [*plugin.glob("src/**/*.py"), *plugin.glob("tests/**/*.py")]
    assert files
    for path in files:
        exported = {"kdcore": kdcore.__all__}
        if path.is_relative_to(plugin / "tests"):
            # Tests run the kit, and name the errors that they expect.
            exported["kdcore.testing"] = kdcore.testing.__all__
            exported["kdcore.errors"] = [
                name for name in vars(kdcore.errors) if name.endswith("Error")
            ]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.partition(".")[0] not in others
                    assert not alias.name.startswith("kdcore.") or alias.name in exported
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                module = str(node.module)
                assert module.partition(".")[0] not in others
                if module.partition(".")[0] == "kdcore":
                    assert {alias.name for alias in node.names} <= set(exported.get(module, ()))


@pytest.mark.parametrize("plugin", _plugins(), ids=lambda plugin: plugin.name)
def test_a_plugin_is_named_like_its_folder_and_offers_the_rest_of_its_name(plugin: Path) -> None:
    project = _project(plugin)["project"]
    assert project["name"] == plugin.name
    assert _entry_names(plugin) == {plugin.name.removeprefix("kdcore-")}
    assert (plugin / "src" / _package(plugin) / "py.typed").is_file()


@pytest.mark.parametrize("plugin", _plugins(), ids=lambda plugin: plugin.name)
def test_a_plugin_says_which_kdcore_it_works_with(plugin: Path) -> None:
    (requirement,) = [
        line for line in _project(plugin)["project"]["dependencies"] if line.startswith("kdcore")
    ]
    assert re.fullmatch(r"kdcore>=[\d.]+,<[\d.]+", requirement)


def test_no_code_of_the_core_depends_on_the_name_of_a_plugin() -> None:
    names = {plugin.name for plugin in _plugins()} | {_package(plugin) for plugin in _plugins()}
    names |= {name for plugin in _plugins() for name in _entry_names(plugin)}
    assert {"kdcore-logits", "kdcore_logits", "logits"} <= names
    found = {
        (module, text)
        for module, tree in _trees().items()
        for text in (*_text(tree), *_imports(tree, ()))
        if text in names
    }
    assert found == set(SHARED_WORDS)


def test_the_core_mentions_plugins_to_people_in_a_few_places_alone() -> None:
    # Of the names that are words of the core as well, the distribution stands for the plugin.
    shared = {word for _, word in SHARED_WORDS}
    names = {plugin.name for plugin in _plugins()}
    names |= {name for plugin in _plugins() for name in _entry_names(plugin)} - shared
    found = {
        module
        for module, tree in _trees().items()
        for text in _text(tree)
        if names & set(re.findall(r"[\w-]+", text))
    }
    assert found == set(MENTIONS)


def test_recipes_name_installed_plugins_of_this_workspace_alone() -> None:
    known = {name for plugin in _plugins() for name in _entry_names(plugin)}
    for path in (CORE / "recipes").glob("*.toml"):
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = [entry for each in recipe["candidates"] for entry in each["strategies"]]
        assert {entry["name"] for entry in entries} <= known


# The workspace


def test_the_development_group_names_exactly_the_plugins_of_the_workspace() -> None:
    group = _project(ROOT)["dependency-groups"]["dev"]
    assert {line for line in group if re.match(r"kdcore-", line)} == {p.name for p in _plugins()}


def test_the_workspace_takes_every_plugin_from_its_folder() -> None:
    uv = _project(ROOT)["tool"]["uv"]
    assert uv["workspace"]["members"] == ["plugins/*"]
    assert uv["sources"] == {
        name: {"workspace": True} for name in ("kdcore", *(p.name for p in _plugins()))
    }


def test_every_folder_of_plugins_is_a_plugin() -> None:
    folders = [path for path in PLUGINS.iterdir() if path.is_dir()]
    assert sorted(folders) == _plugins()
