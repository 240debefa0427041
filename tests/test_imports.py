"""What an experiment names is said before it is imported, and imported or refused in one line."""

from pathlib import Path

import pytest

from kdcore.errors import DataError, ModelError
from kdcore.imports import imported, where_from


def test_a_name_of_kdcores_own_imports_nothing() -> None:
    assert where_from("deepnn") is None
    assert where_from("no_such_module_at_all:thing") is None
    said = where_from("kdcore.models.tutorial:DeepNN")
    assert said is not None
    assert said.startswith("kdcore.models.tutorial:DeepNN from ")


def test_a_module_of_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_here.py").write_text("def thing():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in str(where_from("found_here:thing"))
    assert imported("found_here:thing", "student", ModelError)() == 3


def test_what_is_not_there_is_an_error_of_the_kind_that_was_asked_for() -> None:
    with pytest.raises(ModelError, match="student 'nowhere_to_be:found' cannot be imported"):
        imported("nowhere_to_be:found", "student", ModelError)
    with pytest.raises(DataError, match=r"data.name: kdcore.errors \(.*\) has no such callable"):
        imported("kdcore.errors:Nothing", "data.name", DataError)
