"""Recipes as files of one's own."""

from pathlib import Path

import pytest

from kdcore import configfile
from kdcore.cli.main import run_command


def test_without_a_name_each_recipe_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == configfile.recipes()
    for line in lines:
        words = line.partition(": ")[2]
        assert len(words.split()) > 3
        assert "#" not in words


@pytest.mark.parametrize("name", configfile.recipes())
def test_a_recipe_is_printed_as_it_is_and_is_an_experiment_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["recipe", name]) == 0
    printed = capsys.readouterr().out
    shipped = Path(configfile.__file__).parent / "recipes" / f"{name}.toml"
    assert printed.encode() == shipped.read_bytes()
    file = tmp_path / "mine.toml"
    file.write_text(printed, encoding="utf-8")
    tree = configfile.read_file(file)
    assert tree == configfile.read_recipe(name)
    assert tree["candidates"]


def test_an_unknown_recipe_is_one_line_with_the_near_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["recipe", "stong"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: unknown recipe 'stong'; did you mean 'strong'?")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One thing. Another thing.\n\nseed = 1\n", "One thing"),
        ("# After A et al.\n# 2020, in\n# lines. More\nseed = 1", "After A et al. 2020, in lines"),
        ("# One thing.\n# kdcore compare --recipe one\n", "One thing"),
        ("# No end\n\n# Another comment.\n", "No end"),
        ("seed = 1\n# Late.\n", ""),
    ],
)
def test_a_summary_is_the_first_sentence_of_the_first_comment(text: str, expected: str) -> None:
    assert configfile.summary_of(text) == expected
