"""What each method costs is measured for every one that is installed."""

import pytest

from kdcore.bench.methods import methods
from kdcore.bench.work import Settings
from kdcore.catalog import Catalog
from tests.shipped import SHIPPED


@pytest.mark.slow
def test_every_installed_method_is_measured_against_the_student_alone() -> None:
    results = methods(Settings(size=8, epochs=1, repeats=1))
    names = [listing.name for listing in Catalog().listings()]
    assert set(SHIPPED) <= set(names)
    assert [result.what for result in results] == [
        f"training by {name}, to the student alone" for name in names
    ]
    for result, name in zip(results, names, strict=True):
        assert set(result.seconds) == {"alone", name}
        (value,) = result.values
        (alone,), (own,) = result.seconds["alone"], result.seconds[name]
        assert value == own / alone
