"""Experiments as files: reading TOML, overriding single keys, writing what was resolved."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from kdcore.errors import ConfigError, unknown
from kdcore.experiment import ComparisonConfig, Experiment, RunConfig, joined_label
from kdcore.imports import FILE, placed
from kdcore.validation import describe_validation

E = TypeVar("E", bound=Experiment)
Tree = dict[str, Any]

_PATHS = (("data", "root"), ("teacher", "weights"), ("student", "weights"))


REMOVED = "none"
"""What an assignment says in place of a value to take a key away."""

KIND = ["task", "kind"]
"""The one key of an experiment that has a value of that name."""

LONGEST_LINE = 16_384
"""Bytes that a line of an experiment file may have."""


def read_file(path: Path) -> Tree:
    """Read an experiment file; paths in it are relative to its folder.

    Raises:
        ConfigError: it is missing, unreadable or no TOML.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; give an experiment as a TOML file, or none for a recipe"
        ) from None
    if max(map(len, data.splitlines()), default=0) > LONGEST_LINE:
        # Python's parser takes minutes over a name of a megabyte.
        raise ConfigError(f"{path}: a line has more than {LONGEST_LINE} bytes: no experiment file")
    tree = _parsed(data, str(path))
    named = tree.get("teachers")
    teachers = [("teachers", name, "weights") for name in named] if isinstance(named, dict) else []
    for *tables, key in (*_PATHS, *teachers):
        section: Any = tree
        for table in tables:
            section = section.get(table) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str(path.absolute().parent / Path(section[key]).expanduser())
    for entry in _entries(tree):
        if in_file := FILE.fullmatch(str(entry.get("name"))):
            file = path.absolute().parent / Path(in_file["file"]).expanduser()
            entry["name"] = f"{file}:{in_file['attribute']}"
    return tree


def _entries(tree: Tree) -> Iterator[Tree]:
    """Go through the strategies of a run or comparison, those of stages and candidates included."""
    for table in (tree, *_tables(tree.get("stages")), *_tables(tree.get("candidates"))):
        yield from _tables(table.get("strategies"))
        if table is not tree:
            for stage in _tables(table.get("stages")):
                yield from _tables(stage.get("strategies"))


def recipes() -> list[str]:
    """Return the names of the recipes that come with kdcore."""
    folder = files("kdcore") / "recipes"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """Return one of the experiment files that come with kdcore, as it is.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in recipes():
        raise ConfigError(unknown("recipe", name, recipes()))
    return (files("kdcore") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def summary_of(text: str) -> str:
    """Return the first sentence of the comment that an experiment file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    # "et al. 2020" ends no sentence: what follows one has a capital letter, or is a command.
    return re.split(r"\.(?= [A-Z]| kdcore |$)", comment)[0]


def read_recipe(name: str) -> Tree:
    """Read one of the experiment files that come with kdcore.

    Raises:
        ConfigError: there is none of this name.
    """
    return _parsed(recipe_text(name).encode(), name)


def _parsed(data: bytes, where: str) -> Tree:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not UTF-8 text") from None
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise ConfigError(f"{where}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def override(tree: Tree, assignments: Iterable[str]) -> None:
    """Set single keys, or take them away, in place.

    Args:
        tree: an experiment.
        assignments: ``key.path=value``; the value is TOML, or a string where it is not. Entries
            of a list are named by position from 0, or by their label or name:
            ``candidates.logits.strategies.logits.temperature=4``. ``none``, without quotes, takes
            the key away, so that its default holds; but ``task.kind=none`` is that kind.

    Raises:
        ConfigError: an assignment has no ``=``, or its path leads nowhere.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {assignment}: expected key.path=value")
        keys = path.strip().split(".")
        if text.strip() == REMOVED and keys != KIND:
            _remove(tree, keys)
        else:
            set_key(tree, keys, _value(text.strip()))


def set_key(tree: Tree, path: list[str], value: Any) -> None:
    """Set one key, by its path, in place."""
    node: Any = tree
    for part in path[:-1]:
        node = _child(node, part, path)
    if isinstance(node, list):
        node[_position(node, path[-1], path)] = value
    elif isinstance(node, dict):
        node[path[-1]] = value
    else:
        raise ConfigError(f"--set {'.'.join(path)}: {path[-2]} is no table")


def _remove(tree: Tree, path: list[str]) -> None:
    """Take one key away, by its path, in place."""
    node: Any = tree
    for part in path[:-1]:
        if isinstance(node, list):
            node = node[_position(node, part, path)]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    where = f"--set {'.'.join(path)}={REMOVED}"
    if isinstance(node, list):
        raise ConfigError(f"{where}: an entry of a list has no default; set the whole list")
    # A key that is not there may be misspelt, which nothing would notice later.
    if not isinstance(node, dict) or path[-1] not in node:
        known = node if isinstance(node, dict) else ()
        raise ConfigError(
            f"{where}: there is nothing to take away; {unknown('key', path[-1], known)}; a text "
            f"is written with quotes: '\"{REMOVED}\"'"
        )
    if "strategies" in path and isinstance(node[path[-1]], str):
        # Of a method's settings nobody but the method knows whether this is one of its words.
        raise ConfigError(
            f"{where}: {path[-1]} is a text, and it may be meant as one: write '\"{REMOVED}\"', or "
            "take the key out of the file"
        )
    del node[path[-1]]


def _child(node: Any, part: str, path: list[str]) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, path)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise ConfigError(f"--set {'.'.join(path)}: what {part} is looked for in is no table")


def _position(entries: list[Any], part: str, path: list[str]) -> int:
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    names = [
        str(e.get("label") or e.get("name") or joined_label(e.get("strategies")))
        for e in entries
        if isinstance(e, dict)
    ]
    if part in names:
        return names.index(part)
    where = f"--set {'.'.join(path)}: positions go from 0 to {len(entries) - 1}"
    raise ConfigError(f"{where}; {unknown('entry', part, names)}" if names else where)


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def teacher_trainings(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """Go through the trainings that teachers have of their own: where each is, and its keys."""
    named = tree.get("teachers")
    found = {"teacher": tree.get("teacher")}
    if isinstance(named, dict):
        found |= {f"teachers.{name}": teacher for name, teacher in named.items()}
    for section, teacher in found.items():
        own = teacher.get("train") if isinstance(teacher, dict) else None
        if isinstance(own, dict):
            yield f"{section}.train", own


def as_run(tree: Tree, where: str) -> RunConfig:
    """Check a file's content as one run.

    Raises:
        ConfigError: a key is unknown, missing or out of bounds; or it is a comparison's file.
    """
    if "candidates" in tree or "seeds" in tree:
        raise ConfigError(f"{where}: is a comparison (it has candidates or seeds): kdcore compare")
    return _validated(RunConfig, tree, where)


def as_comparison(tree: Tree, where: str) -> ComparisonConfig:
    """Check a file's content as a comparison.

    Raises:
        ConfigError: a key is unknown, missing or out of bounds; or it is one run's file.
    """
    if "strategies" in tree or "seed" in tree:
        raise ConfigError(
            f"{where}: strategies and seed are keys of one run (kdcore run FILE); a comparison has "
            "seeds, and a method's settings are at candidates.LABEL.strategies.NAME.KEY"
        )
    if not tree.get("candidates"):
        raise ConfigError(
            f"{where}: there is no candidate to compare with the student alone: write "
            '[[candidates]] with strategies = [{ name = "logits" }] below it, or give '
            "--strategies logits,fitnets"
        )
    return _validated(ComparisonConfig, tree, where)


def _validated(kind: type[E], tree: Tree, where: str) -> E:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_validation(error, where, kind)) from None


def as_toml(experiment: Experiment) -> str:
    """Write an experiment with every key that has a value, so that reading it gives it again."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))


def candidates_for(tree: Tree, text: str) -> list[Tree]:
    """Turn ``a,b+c`` into candidates, with the settings that an experiment has for each name.

    Args:
        tree: the experiment; entries of its candidates lend their settings.
        text: names with commas between candidates and ``+`` between strategies of one.

    Raises:
        ConfigError: a name is empty, or the experiment has it with different settings.
    """
    known: dict[str, Tree] = {}
    weights: dict[str, Any] = {}
    for candidate in _tables(tree.get("candidates")):
        label = candidate.get("label") or joined_label(candidate.get("strategies"))
        weights[str(label)] = candidate.get("task_weight")
        weights.setdefault(joined_label(candidate.get("strategies")), candidate.get("task_weight"))
        for entry in _tables(candidate.get("strategies")):
            name = _plain(str(entry.get("name")))
            typed = [_plain(each.strip()) for each in re.split("[,+]", text)]
            if known.setdefault(name, entry) != entry and name in typed:
                raise ConfigError(
                    f"--strategies {text}: the file has {name!r} with different settings; take "
                    "out the candidates that are not wanted"
                )
    chosen = []
    for label in text.split(","):
        names = [name.strip() for name in label.split("+")]
        if not all(names):
            raise ConfigError(f"--strategies {text}: expected names like logits,cosine+fitnets")
        for name in names:
            if name.endswith(".py"):
                raise ConfigError(f"--strategies {text}: say which class of it: {name}:CLASS")
        entries = [{**known.get(_plain(name), {}), "name": name} for name in names]
        # A name may be ``distribution:name``, of which a label takes the second.
        bare = [_label_of(name) for name in names]
        candidate = {"label": "+".join(bare), "strategies": entries}
        if weights.get(candidate["label"]) is not None:
            candidate["task_weight"] = weights[candidate["label"]]
        chosen.append(candidate)
    return chosen


def _plain(name: str) -> str:
    """Return a strategy's name as it is however it is written: a file by its path, others bare."""
    return placed(name) if FILE.fullmatch(name) else name.rpartition(":")[2]


def _label_of(name: str) -> str:
    label = name.rpartition(":")[2]
    return label.lower() if FILE.fullmatch(name) else label


def _tables(value: Any) -> list[Tree]:
    # What the file has there is checked later; what is no table has no settings to lend.
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
