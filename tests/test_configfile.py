"""Experiments as files: what is read, overridden and written, and one line for each mistake."""

import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kdcore import configfile
from kdcore.errors import ConfigError
from kdcore.experiment import ComparisonConfig, Experiment, RunConfig, StrategyConfig

Write = Callable[[str | bytes], Path]

DEEP = 100_000


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes an experiment file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _read_run(path: Path) -> RunConfig:
    return configfile.as_run(configfile.read_file(path), str(path))


def _refused(path: Path) -> str:
    """Return what is wrong with a run's file, behind its name."""
    with pytest.raises(ConfigError) as caught:
        _read_run(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{path}: ")


def _comparison(*labels: str) -> dict[str, Any]:
    return {
        "candidates": [
            {"label": label, "strategies": [{"name": name} for name in label.split("+")]}
            for label in labels
        ]
    }


# Files that cannot be read


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    missing = _refused(tmp_path / "none.toml")
    assert missing.startswith("No such file or directory; give an experiment as a TOML file")
    assert _refused(tmp_path).startswith("Is a directory; give")


def test_text_that_is_not_utf_8_is_refused(write: Write) -> None:
    with pytest.raises(UnicodeDecodeError):
        tomllib.loads(b"device = '\xe9'".decode())
    assert _refused(write(b"device = '\xe9'")) == "not UTF-8 text"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("seed = ", "end of document"),
        ("seed = 1\nthis is prose", "line 2"),
        ("seed = 1\nseed = 2", "Cannot overwrite a value"),
        ("[data]\n[data]", "Cannot declare ('data',) twice"),
        ("[train]\nlr = 1\n[train.lr]\na = 1", "Cannot"),
        ("device = 'a\x00b'", "'\\x00' (at line 1"),
        ("seed = 1979-15-99", "line 1"),
    ],
)
def test_text_that_is_no_toml_is_refused_with_the_place(
    write: Write, text: str, where: str
) -> None:
    message = _refused(write(text))
    assert message.startswith("not TOML: ")
    assert where in message
    assert message.isprintable()


def test_a_number_of_thousands_of_digits_is_refused(write: Write) -> None:
    text = "seed = 1" + "0" * 5000
    with pytest.raises(ValueError, match="digits") as caught:
        tomllib.loads(text)
    assert not isinstance(caught.value, tomllib.TOMLDecodeError)
    assert _refused(write(text)).startswith("not TOML: ")


def test_lists_nested_too_deeply_are_refused(write: Write) -> None:
    with pytest.raises(RecursionError):
        tomllib.loads("a = " + "[\n" * DEEP)
    assert _refused(write("a = " + "[\n" * DEEP)) == "nested too deeply"


def test_a_line_that_a_parser_takes_minutes_over_is_refused(write: Write) -> None:
    assert _refused(write("[" + "a." * 2**19 + "a]")).startswith("a line has more than 16384 bytes")
    write("# " + "a" * 16_000)  # the control


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.lr", "train.lr: input should be a valid number (got a very large dict)"),
        ("data", "in data: unknown key 'a'"),
        ("teacher.train.lr", "teacher.train: lr: input should be a valid number"),
    ],
)
def test_tables_nested_too_deeply_are_refused_with_the_key(
    write: Write, key: str, message: str
) -> None:
    assert _refused(write(f"{key}.{'.'.join('a' * 5000)} = 1")).startswith(message)


# Keys and values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 1", "unknown key 'sead'; did you mean 'seed'?"),
        ("[trian]\nlr = 1", "unknown key 'trian'; did you mean 'train'?"),
        ("[train]\nepoch = 1", "in train: unknown key 'epoch'; did you mean 'epochs'"),
        ("[data]\nlabel = 5", "in data: unknown key 'label'; did you mean 'labels'"),
        ("[teacher]\nweight = 'w'", "in teacher: unknown key 'weight'; did you mean 'weights'"),
        ("[teacher.train]\nlearning = 1", "teacher.train: unknown key 'learning'"),
        ("[[strategies]]\nnmae = 'a'", "strategies.0.name: field required"),
        ("[[strategies]]\nname='a'\nweight=-1", "strategies.0.weight: input should be greater"),
        (
            "strategies = ['logits']",
            'strategies.0: "logits" stands alone; write { name = "logits" }',
        ),
        ("[train]\nlr = nan", "train.lr: input should be a finite number (got nan)"),
        ("[train]\nlr = -inf", "train.lr: input should be a finite number (got -inf)"),
        ("[train]\nepochs = -1", "train.epochs: input should be greater than or equal to 1 (got"),
        ("[train]\nlr = 1" + "0" * 400, "train.lr: input should be a valid number (got 1000"),
        ("task_weight = nan", "task_weight: input should be a finite number (got nan)"),
        ("seed = 9223372036854775808", "seed: input should be less than 9223372036854775808"),
        ("seed = 1979-05-27", "seed: input should be a valid integer (got datetime.date("),
        ("data = 5", "data: expected a table of keys (got 5)"),
        ("[data]\nroot = 5", "data.root: input is not a valid path"),
        (
            "[train]\noptimizer = 'lion'",
            "train.optimizer: input should be 'adam', 'adamw', 'muon' or",
        ),
        ("[cache]\nmode = 'on'", "cache.mode: input should be 'auto', 'memory', 'disk' or 'off'"),
        ("'\\u001b[2J' = 1".replace("'", '"'), r"unknown key '\x1b[2J'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_of_file_key_and_remedy(
    write: Write, text: str, message: str
) -> None:
    refused = _refused(write(text))
    assert refused.startswith(message)
    assert refused.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategy = []", "in candidates.0: unknown key 'strategy'; did you mean 'strategies'"),
        ("task_wait = 1", "in candidates.0: unknown key 'task_wait'; did you mean 'task_weight'"),
        ("strategies = [{ name = 'a', weight = inf }]", "candidates.0.strategies.0.weight: "),
    ],
)
def test_a_mistake_in_a_candidate_is_named_with_its_place(text: str, message: str) -> None:
    tree = tomllib.loads(f"[[candidates]]\nlabel = 'a'\n{text}")
    with pytest.raises(ConfigError) as caught:
        configfile.as_comparison(tree, "mine.toml")
    assert message in str(caught.value)
    assert "at least 1 item" not in str(caught.value)


def test_all_mistakes_of_a_file_are_told_at_once(write: Write) -> None:
    message = _refused(write("sead = 1\n[train]\nlr = 0\nepochs = 0"))
    for part in ("'sead'", "train.lr: ", "train.epochs: "):
        assert part in message


def test_an_empty_file_is_a_run_of_the_defaults(write: Write) -> None:
    assert _read_run(write("")) == RunConfig()


@pytest.mark.parametrize("key", ["candidates", "seeds"])
def test_a_comparisons_file_given_to_run_says_what_to_type(write: Write, key: str) -> None:
    message = _refused(write(f"{key} = [1]"))
    assert message == "is a comparison (it has candidates or seeds): kdcore compare"


@pytest.mark.parametrize("text", ["seed = 1", "[[strategies]]\nname = 'a'"])
def test_a_runs_file_given_to_compare_says_what_to_type(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configfile.as_comparison(tomllib.loads(text), "mine.toml")
    assert str(caught.value).startswith("mine.toml: strategies and seed are keys of one run (kd")


def test_the_form_that_is_given_to_its_own_command_is_taken() -> None:
    assert configfile.as_run({"seed": 3}, "mine.toml").seed == 3
    comparison = configfile.as_comparison({"seeds": [3], **_comparison("a")}, "mine.toml")
    assert comparison.seeds == (3,)


# Paths


def test_paths_in_a_file_are_relative_to_its_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        "[data]\nname = 'folder'\nroot = 'photos'\n"
        "[teacher]\nweights = '../t.safetensors'\n[student]\nweights = '/abs/s.safetensors'"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = _read_run(Path("..") / path.name)
    assert config.data.root is not None
    assert config.teacher is not None
    assert config.teacher.weights is not None
    assert config.data.root.resolve() == tmp_path / "photos"
    assert config.teacher.weights.resolve() == tmp_path.parent / "t.safetensors"
    assert config.student.weights == Path("/abs/s.safetensors")


def test_a_path_may_begin_at_home(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = _read_run(write("[data]\nname = 'folder'\nroot = '~/photos'"))
    assert config.data.root == Path("/home/somebody/photos")


def test_a_models_name_is_no_path(write: Write) -> None:
    assert _read_run(write("[student]\nmodel = 'mine:net'")).student.model == "mine:net"


# Recipes


def test_every_recipe_is_a_comparison() -> None:
    assert configfile.recipes() == ["crd", "demo", "few-labels", "strong", "tutorial"]
    candidates = {"crd": 11, "demo": 3, "few-labels": 1, "strong": 1, "tutorial": 3}
    for name in configfile.recipes():
        tree = configfile.read_recipe(name)
        if name == "crd":  # its images come with no package
            tree["data"]["root"] = "images"
        config = configfile.as_comparison(tree, name)
        assert len(config.candidates) == candidates[name]
        quick = name in ("demo", "tutorial")
        assert config.seeds == ((42,) if quick else (42, 43, 44, 45, 46))


def test_recipes_compare_the_tutorials_methods_with_its_weights() -> None:
    for name in ("demo", "tutorial"):
        config = configfile.as_comparison(configfile.read_recipe(name), name)
        assert config.task_weight is None  # each method's own, which is 0.75 for these
        entries = [entry for candidate in config.candidates for entry in candidate.strategies]
        assert [entry.name for entry in entries] == ["logits", "cosine", "fitnets"]
        assert {entry.weight for entry in entries} == {0.25}
        assert entries[0].settings == {"temperature": 2.0}
        assert config.model_names == ("deepnn", "lightnn")
        assert (config.train.epochs, config.train.batch_size) == (10, 128)
        assert (config.train.optimizer, config.train.lr) == ("adam", 1e-3)


@pytest.mark.parametrize("name", ["demmo", "../experiment", "", "demo.toml", "/etc/hostname"])
def test_an_unknown_recipe_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configfile.read_recipe(name)
    assert str(caught.value).startswith(f"unknown recipe {name!r}")
    assert "crd, demo, few-labels, strong, tutorial" in str(caught.value)


def test_only_toml_files_are_recipes() -> None:
    folder = files("kdcore") / "recipes"
    assert all((folder / f"{name}.toml").is_file() for name in configfile.recipes())


# Overriding


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.lr=1e-3", 1e-3),
        ("train.lr = 0.5 ", 0.5),
        ("train.lr=5", 5),
        ("train.lr=true", True),
        ("train.lr=[1, 2]", [1, 2]),
        ("train.lr='x'", "x"),
        ('train.lr="x=y"', "x=y"),
        ("train.lr=photos/cats and dogs", "photos/cats and dogs"),
        ("train.lr=a=b", "a=b"),
        ("train.lr=", ""),
        ("train.lr={ a = 1 }", {"a": 1}),
        ("train.lr=1979", 1979),
        ("train.lr=1\nseed=2", "1\nseed=2"),
    ],
)
def test_a_value_is_toml_or_a_string(assignment: str, value: object) -> None:
    tree: dict[str, Any] = {"train": {"epochs": 3}}
    configfile.override(tree, [assignment])
    assert tree == {"train": {"epochs": 3, "lr": value}}
    assert type(tree["train"]["lr"]) is type(value)


@pytest.mark.parametrize("text", ["[" * DEEP, "1" + "0" * 5000])
def test_a_value_that_cannot_be_read_is_a_string(text: str) -> None:
    tree: dict[str, Any] = {}
    configfile.override(tree, [f"seed={text}"])
    with pytest.raises(ConfigError, match=r"seed: .* \(got '"):
        configfile.as_run(tree, "mine.toml")


def test_new_keys_and_tables_are_made() -> None:
    tree: dict[str, Any] = {}
    configfile.override(tree, ["seed=3", "train.epochs=2", "teacher.train.epochs=1"])
    assert tree == {"seed": 3, "train": {"epochs": 2}, "teacher": {"train": {"epochs": 1}}}


def test_a_later_assignment_wins() -> None:
    tree = {"seed": 1}
    configfile.override(tree, ["seed=2", "seed=3"])
    assert tree == {"seed": 3}


@pytest.mark.parametrize(
    "path",
    [
        "candidates.1.strategies.0.temperature",
        "candidates.a+b.strategies.a.temperature",
        "candidates.a+b.strategies.0.temperature",
        "candidates.1.strategies.a.temperature",
    ],
)
def test_an_entry_of_a_list_is_named_by_position_label_or_name(path: str) -> None:
    tree = _comparison("a", "a+b")
    configfile.override(tree, [f"{path}=4"])
    assert tree["candidates"][1]["strategies"][0] == {"name": "a", "temperature": 4}
    assert tree["candidates"][0]["strategies"] == [{"name": "a"}]


def test_a_label_goes_before_a_name() -> None:
    strategies = [{"name": "a", "label": "hot"}, {"name": "a", "label": "warm"}]
    tree: dict[str, Any] = {"strategies": strategies}
    configfile.override(tree, ["strategies.warm.temperature=2"])
    assert strategies[1] == {"name": "a", "label": "warm", "temperature": 2}
    with pytest.raises(ConfigError, match=r"unknown entry 'a' .known: hot, warm"):
        configfile.override(tree, ["strategies.a.temperature=2"])


def test_an_entry_of_a_list_can_be_replaced() -> None:
    tree = {"seeds": [1, 2, 3], **_comparison("a")}
    configfile.override(tree, ["seeds.1=5", "candidates.a={ label = 'b', strategies = [] }"])
    assert tree["seeds"] == [1, 5, 3]
    assert tree["candidates"] == [{"label": "b", "strategies": []}]


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("seed", "--set seed: expected key.path=value"),
        ("=3", "--set =3: expected key.path=value"),
        (" =3", "--set  =3: expected key.path=value"),
        ("seed.x=3", "--set seed.x: seed is no table"),
        ("seed.x.y=3", "--set seed.x.y: what x is looked for in is no table"),
        ("seeds.3=3", "--set seeds.3: positions go from 0 to 2"),
        ("seeds.-1=3", "--set seeds.-1: positions go from 0 to 2"),
        ("seeds.first=3", "--set seeds.first: positions go from 0 to 2"),
        ("candidates.bb.label=c", "positions go from 0 to 1; unknown entry 'bb'; did you mean 'b'"),
        ("candidates.2.label=c", "positions go from 0 to 1; unknown entry '2' (known: a, b)"),
        ("candidates.a.strategies.b.t=1", "unknown entry 'b' (known: a)"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_and_the_experiment_is_left_alone(
    assignment: str, reason: str
) -> None:
    tree = {"seed": 1, "seeds": [1, 2, 3], **_comparison("a", "b")}
    before = tomli_w.dumps(tree)
    with pytest.raises(ConfigError) as caught:
        configfile.override(tree, [assignment])
    assert reason in str(caught.value)
    assert tomli_w.dumps(tree) == before


@pytest.mark.parametrize("path", ["data.labels", "candidates.a+b.strategies.b.temperature"])
def test_none_removes_a_key(path: str) -> None:
    tree: dict[str, Any] = {"data": {"labels": 500, "limit": 9}, **_comparison("a", "a+b")}
    before = tomli_w.dumps(tree)
    configfile.override(tree, ["candidates.a+b.strategies.b.temperature=2"])
    configfile.override(tree, [f"{path}= none "])
    if path == "data.labels":
        assert tree["data"] == {"limit": 9}
    else:
        assert tomli_w.dumps(tree) == before


def test_what_none_removed_has_its_default() -> None:
    tree = configfile.read_recipe("few-labels")
    assert configfile.as_comparison(tree, "here").data.labels == 500
    configfile.override(tree, ["data.labels=none", "augment=none"])
    config = configfile.as_comparison(tree, "here")
    assert config.data.labels is None
    assert not config.augment.active


@pytest.mark.parametrize("path", ["train.lr", "task.metric_name"])
def test_none_in_quotes_is_a_text(path: str) -> None:
    tree: dict[str, Any] = {"train": {"lr": 1}, "task": {"metric_name": "far"}}
    configfile.override(tree, [f'{path}="none"'])
    section, key = path.split(".")
    assert tree[section][key] == "none"


def test_a_text_of_a_method_is_not_removed_by_what_may_be_one_of_its_words() -> None:
    entry: dict[str, Any] = {"name": "mine", "norm": "l2", "weight": 2.0}
    tree = {"candidates": [{"strategies": [entry]}]}
    path = "candidates.0.strategies.mine"
    with pytest.raises(ConfigError, match=r"norm is a text.*write '\"none\"', or take the key out"):
        configfile.override(tree, [f"{path}.norm=none"])
    assert entry["norm"] == "l2"
    configfile.override(tree, [f'{path}.norm="none"', f"{path}.weight=none"])
    assert entry == {"name": "mine", "norm": "none"}


def test_a_kind_of_task_may_be_none() -> None:
    tree: dict[str, Any] = {"task": {"kind": "classification"}}
    configfile.override(tree, ["task.kind=none"])
    assert tree == {"task": {"kind": "none"}}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("data.labells", "nothing to take away; unknown key 'labells'; did you mean 'labels'?"),
        ("dato.labels", "nothing to take away; unknown key 'labels' (there is none)"),
        ("seed.x", "nothing to take away; unknown key 'x'"),
        ("seeds.1", "an entry of a list has no default; set the whole list"),
        ("candidates.c.label", "unknown entry 'c' (known: a, b)"),
    ],
)
def test_what_is_not_there_cannot_be_removed_and_nothing_changes(path: str, reason: str) -> None:
    tree = {"seed": 1, "seeds": [1, 2], "data": {"labels": 5}, **_comparison("a", "b")}
    before = tomli_w.dumps(tree)
    with pytest.raises(ConfigError) as caught:
        configfile.override(tree, [f"{path}=none"])
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"--set {path}")
    assert tomli_w.dumps(tree) == before


def test_a_misspelt_path_is_refused_when_the_experiment_is_checked() -> None:
    tree: dict[str, Any] = {}
    configfile.override(tree, ["trian.epochs=3", "train.epoch=3", "a..b=1"])
    with pytest.raises(ConfigError) as caught:
        configfile.as_run(tree, "mine.toml")
    for key in ("'trian'", "in train: unknown key 'epoch'", "unknown key 'a'"):
        assert key in str(caught.value)


# Candidates in short


def test_commas_part_candidates_and_plus_joins_the_strategies_of_one() -> None:
    candidates = configfile.candidates_for({}, "a, b+c")
    assert candidates == _comparison("a", "b+c")["candidates"]
    config = configfile.as_comparison({"candidates": candidates}, "mine.toml")
    assert [candidate.label for candidate in config.candidates] == ["a", "b+c"]


def test_the_experiment_lends_its_settings_to_the_names_that_are_chosen() -> None:
    tree = configfile.read_recipe("tutorial")
    chosen = configfile.candidates_for(tree, "fitnets,logits+other")
    assert chosen == [
        {
            "label": "fitnets",
            "strategies": [{"name": "fitnets", "weight": 0.25}],
            "task_weight": 0.75,
        },
        {
            "label": "logits+other",
            "strategies": [
                {"name": "logits", "weight": 0.25, "temperature": 2.0},
                {"name": "other"},
            ],
        },
    ]


def test_settings_that_were_lent_are_copies() -> None:
    tree = {"candidates": [{"label": "a", "strategies": [{"name": "a", "weight": 1}]}]}
    chosen = configfile.candidates_for(tree, "a")
    chosen[0]["strategies"][0]["weight"] = 9
    assert tree["candidates"][0]["strategies"] == [{"name": "a", "weight": 1}]


def test_a_candidate_that_is_chosen_by_its_label_keeps_its_task_weight() -> None:
    tree = _comparison("a", "b")
    tree["candidates"][1]["task_weight"] = 0.5
    assert configfile.candidates_for(tree, "b,a") == [tree["candidates"][1], tree["candidates"][0]]


def test_a_name_that_the_experiment_has_with_two_settings_is_not_chosen_by_chance() -> None:
    tree = _comparison("a", "b", "b+a")
    tree["candidates"][0]["strategies"][0]["temperature"] = 4
    with pytest.raises(ConfigError, match="the file has 'a' with different settings"):
        configfile.candidates_for(tree, "b,a")
    assert configfile.candidates_for(tree, "b") == _comparison("b")["candidates"]


@pytest.mark.parametrize("text", ["", ",", "a,", "a,,b", "+", "a+", "a++b", " , "])
def test_an_empty_name_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configfile.candidates_for({}, text)
    assert str(caught.value).startswith(f"--strategies {text}: expected names like")


@pytest.mark.parametrize(
    "candidates", [5, [5], [{}], [{"strategies": 5}], [{"strategies": [{"weight": 1}, "a"]}]]
)
def test_an_experiment_whose_candidates_are_malformed_lends_nothing(candidates: object) -> None:
    chosen = configfile.candidates_for({"candidates": candidates}, "a")
    assert chosen == _comparison("a")["candidates"]


def test_a_candidate_that_is_named_with_its_distribution_is_labelled_by_its_name() -> None:
    chosen = configfile.candidates_for({}, "kdcore-logits:logits+kd.two:twin")
    (candidate,) = configfile.as_comparison({"candidates": chosen}, "mine.toml").candidates
    assert candidate.label == "logits+twin"
    assert [entry.name for entry in candidate.strategies] == ["kdcore-logits:logits", "kd.two:twin"]


def test_the_same_candidate_twice_is_refused_when_the_experiment_is_checked() -> None:
    tree = {"candidates": configfile.candidates_for({}, "a,a")}
    with pytest.raises(ConfigError, match=r"mine\.toml: two candidates have the label 'a'"):
        configfile.as_comparison(tree, "mine.toml")


# Writing

TRAININGS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "weight_decay": 1e-4},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.05, "clip_norm": 1.0},
    "muon": {"optimizer": "muon", "weight_decay": 0.05, "momentum": 0.8},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "plain sgd": {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
    "constant": {"schedule": "constant", "lr": 0.1 + 0.2},
    "cosine": {"schedule": "cosine", "warmup_epochs": 0.5},
    "step": {"schedule": "step", "milestones": [3, 8], "gamma": 1 / 3},
    "one-cycle": {"schedule": "one-cycle", "label_smoothing": 0.1},
    "the rest": {"epochs": 9, "batch_size": 8, "accumulate": 2, "labelled_share": 0.4},
}


def _again(experiment: Experiment, path: Path) -> Experiment:
    """Write an experiment, read it again as a user would, and check it."""
    path.write_text(configfile.as_toml(experiment), encoding="utf-8")
    tree = configfile.read_file(path)
    if isinstance(experiment, RunConfig):
        return configfile.as_run(tree, str(path))
    return configfile.as_comparison(tree, str(path))


@pytest.mark.parametrize("training", TRAININGS.values(), ids=list(TRAININGS))
def test_every_optimizer_and_schedule_can_be_written_and_read_again(
    training: dict[str, Any], tmp_path: Path
) -> None:
    teacher = {"train": {"epochs": 4}}
    run = RunConfig.model_validate({"train": training, "teacher": teacher})
    comparison = ComparisonConfig.model_validate({"train": training, **_comparison("a")})
    for experiment in (run, comparison):
        assert _again(experiment, tmp_path / "again.toml") == experiment
    for key, value in training.items():
        assert getattr(run.train, key) == (tuple(value) if isinstance(value, list) else value)


def test_every_key_of_a_run_can_be_written_and_read_again(tmp_path: Path) -> None:
    run = RunConfig.model_validate(
        {
            "seed": 2**63 - 1,
            "task_weight": 0.1,
            "device": "cpu",
            "augment": {"crop": 4, "flip": True, "views": 8, "resized_crop": 0.5, "seed": 3},
            "cache": {"mode": "disk", "dtype": "float16", "memory": 5, "disk": 6, "folder": "/c"},
            "checkpoint": {"steps": 4, "minutes": 0.5, "epochs": 0, "keep": 3},
            "processes": {"timeout": 2.5},
            "log": {"tensorboard": True},
            "export": {"formats": ["onnx", "torch"], "int8": True},
            "wrappers": ["profiler"],
            "task": {
                "kind": "none",
                "metric": "m:f",
                "metric_name": "far, m²",
                "higher_is_better": False,
            },
            "data": {
                "name": "folder",
                "root": "/photos/cats “and” dogs",
                "labels": 10,
                "limit": 20,
                "validation": 0.1,
                "test_share": 0.3,
                "split_seed": 9,
                "group_by": r"(\w+)/[^\"']+\.png\t",
                "skip_unreadable": True,
            },
            "teacher": {
                "model": "m:f",
                "weights": "/t",
                "output": "1.cls",
                "image_size": 8,
                "resize": 9,
                "interpolation": "bicubic",
                "squash": True,
                "train": {"lr": 0.5},
                "classes": 4,
                "class_map": {"cat": 1, "dog": ["beagle", 2]},
            },
            "student": {"weights": "/s", "mean": [0, 0.1, 0.2], "std": [1, 2, 3]},
            "strategies": [
                {"name": "a", "label": "b", "weight": 1e-30, "teacher": "t", "layers": [1, 2]},
                {"name": "d:c", "text": "tab\tnew\nline \x1b \u2028 \U0001f600", "deep": {"a": 1}},
            ],
        }
    )
    defaults = RunConfig()
    untouched = [key for key, value in run if value == getattr(defaults, key)]
    assert untouched == ["teachers", "train", "stages"]  # several teachers exclude the one
    again = _again(run, tmp_path / "again.toml")
    assert again == run
    assert isinstance(again, RunConfig)
    assert [entry.settings for entry in again.strategies] == [e.settings for e in run.strategies]


def test_every_key_of_a_comparison_can_be_written_and_read_again(tmp_path: Path) -> None:
    comparison = ComparisonConfig.model_validate(
        {
            "seeds": [3, 1, 2],
            "task_weight": 2,
            "candidates": [
                {"label": "b+a", "task_weight": 0, "strategies": [{"name": "b"}, {"name": "a"}]},
                {"label": "a", "strategies": [{"name": "a", "weight": 0, "temperature": 4.0}]},
            ],
        }
    )
    assert _again(comparison, tmp_path / "again.toml") == comparison


@pytest.mark.parametrize("name", ["demo", "tutorial"])
def test_a_recipe_can_be_written_and_read_again(name: str, tmp_path: Path) -> None:
    recipe = configfile.as_comparison(configfile.read_recipe(name), name)
    assert _again(recipe, tmp_path / "again.toml") == recipe


def test_what_is_written_holds_the_defaults_so_that_later_ones_do_not_matter() -> None:
    tree = tomllib.loads(configfile.as_toml(RunConfig()))
    assert tree["train"]["batch_size"] == RunConfig().train.batch_size
    assert tree["data"]["name"] == "digits"
    assert tree["seed"] == 42


def test_settings_of_a_strategy_keep_their_types(tmp_path: Path) -> None:
    settings = {"flag": True, "count": 1, "share": 1.0, "word": "1", "none": []}
    run = RunConfig(strategies=(StrategyConfig.model_validate({"name": "a", **settings}),))
    again = _again(run, tmp_path / "again.toml")
    assert isinstance(again, RunConfig)
    read = again.strategies[0].settings
    assert {key: type(value) for key, value in read.items()} == {
        key: type(value) for key, value in settings.items()
    }


def test_a_candidate_without_a_label_is_found_by_the_names_of_its_strategies() -> None:
    tree: dict[str, Any] = {
        "candidates": [{"strategies": [{"name": "logits"}, {"name": "cosine"}], "task_weight": 0.3}]
    }
    configfile.override(tree, ["candidates.logits+cosine.strategies.logits.weight=0.5"])
    assert tree["candidates"][0]["strategies"][0]["weight"] == 0.5
    (chosen,) = configfile.candidates_for(tree, "logits+cosine")
    assert chosen["task_weight"] == 0.3
