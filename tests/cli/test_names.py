"""What folders of results are called where nobody names them."""

from pathlib import Path

import pytest

from kdcore.cli.options import data_name, folder_name
from kdcore.configfile import as_comparison, read_recipe


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"name": "folder", "root": "some/photos.v2"}, "photos.v2"),
        ({"name": "csv", "root": "some/list.csv"}, "list"),
        ({"name": "cifar10", "root": "some/data"}, "cifar10"),
        ({"name": "my_data:load"}, "load"),
        ({"name": "digits"}, "digits"),
    ],
)
def test_data_are_called_after_their_folder_or_table_or_name(
    data: dict[str, str], expected: str
) -> None:
    config = as_comparison({**read_recipe("tutorial"), "data": data}, "here")
    assert data_name(config) == expected


def test_data_in_the_working_folder_are_called_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "folder", "root": "."}
    config = as_comparison({**read_recipe("tutorial"), "data": data}, "here")
    assert data_name(config) == tmp_path.name


def test_an_experiment_that_is_named_keeps_its_name() -> None:
    data = {"name": "folder", "root": "some/photos"}
    config = as_comparison({**read_recipe("tutorial"), "data": data}, "here")
    assert folder_name("mine", config) == "mine-photos"
