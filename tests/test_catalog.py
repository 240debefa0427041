"""What is installed: listed without importing, loaded by name, and never spoilt by a neighbour."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions, entry_points
from pathlib import Path

import pluggy
import pytest

from kdcore import __version__
from kdcore.catalog import BLOCK_VARIABLE, STRATEGIES, WRAPPERS, Catalog, Listing, printable
from kdcore.errors import CatalogError
from kdcore.hookspecs import PROJECT

Install = Callable[..., Path]

BROKEN = {
    "import error": ("import a_module_that_nobody_has", "ModuleNotFoundError"),
    "exception": ("raise ValueError('the first line\\nand another')", "ValueError: the first line"),
    "exit": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "syntax": ("def", "SyntaxError"),
    "no attribute": ("", "AttributeError"),
}


@pytest.fixture(autouse=True)
def nothing_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK_VARIABLE, raising=False)


def _listings(*names: str) -> list[Listing]:
    return [listing for listing in Catalog().listings() if listing.name in names]


def _refused(name: str, catalog: Catalog | None = None) -> str:
    with pytest.raises(CatalogError) as caught:
        (catalog or Catalog()).load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _read_all(folder: Path) -> None:
    """Read metadata as a catalog must, without its care."""
    for distribution in distributions(path=[str(folder)]):
        _ = distribution.metadata, distribution.entry_points


# Listing


def test_a_listing_tells_what_the_metadata_say(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"}, version="2.5")
    (listing,) = _listings("one")
    assert listing.name == "one"
    assert str(listing.origin) == "kd-one 2.5"
    assert listing.summary == "the summary of kd-one"
    assert listing.target == "kd_one:Method"
    assert listing.problem == ""


def test_listing_imports_nothing_and_loading_imports_what_was_selected_alone(
    install: Install,
) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    install("kd-two", {"two": "kd_two:Method"})
    assert len(_listings("one", "two")) == 2
    assert "kd_one" not in sys.modules
    assert "kd_two" not in sys.modules
    loaded, origin = Catalog().load("one")
    assert loaded.__name__ == "Method"
    assert str(origin) == "kd-one 1.0"
    assert "kd_one" in sys.modules
    assert "kd_two" not in sys.modules


def test_listings_are_in_the_order_of_their_names(install: Install) -> None:
    install("kd-a", {"zeta": "kd_a:Method", "beta": "kd_a:Method"})
    install("kd-b", {"alpha": "kd_b:Method"})
    names = [listing.name for listing in Catalog().listings()]
    assert {"alpha", "beta", "zeta"} <= set(names)
    assert names == sorted(names)


def test_each_group_has_a_catalog_of_its_own(install: Install) -> None:
    install("kd-one", {"one": "kd_one:Method"})
    install("kd-clock", {"clock": "kd_clock:wrapper"}, group=WRAPPERS)
    assert "clock" in [listing.name for listing in Catalog(WRAPPERS).listings()]
    assert "one" not in [listing.name for listing in Catalog(WRAPPERS).listings()]
    assert "clock" not in [listing.name for listing in Catalog(STRATEGIES).listings()]
    assert "unknown wrapper 'one'" in _refused("one", Catalog(WRAPPERS))


def test_a_plugin_of_another_group_is_no_strategy(install: Install) -> None:
    install("kd-other", {"other": "kd_other:Method"}, group="somebody.else")
    assert _listings("other") == []


# One broken plugin


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_a_plugin_that_cannot_be_imported_is_told_with_its_distribution_and_cause(
    install: Install, source: str, reason: str
) -> None:
    install("kd-bad", {"bad": "kd_bad:Method"}, version="3.1", source={"kd_bad": source})
    with pytest.raises(CatalogError) as caught:
        Catalog().load("bad")
    message = str(caught.value)
    assert message.startswith("'bad' (kd-bad 3.1) cannot be imported from kd_bad:Method: ")
    assert reason in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert type(caught.value.__cause__).__name__ == reason.partition(":")[0]


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_affects_no_other_and_is_listed(
    install: Install, source: str, reason: str
) -> None:
    install("kd-bad", {"bad": "kd_bad:Method"}, source={"kd_bad": source})
    install("kd-good", {"good": "kd_good:Method"})
    assert [listing.name for listing in _listings("bad", "good")] == ["bad", "good"]
    assert reason in _refused("bad")
    assert Catalog().load("good")[0].__name__ == "Method"


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_pluggys_own_loading_would_fail_for_all_where_one_is_broken(
    install: Install, source: str, reason: str
) -> None:
    group = "kdcore.tests.broken"
    install("kd-bad", {"bad": "kd_bad:Method"}, source={"kd_bad": source}, group=group)
    install("kd-good", {"good": "kd_good:Method"}, group=group)
    manager = pluggy.PluginManager(PROJECT)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 -- SystemExit among them
        manager.load_setuptools_entrypoints(group)
    assert type(caught.value).__name__ == reason.partition(":")[0]


def test_being_interrupted_while_a_plugin_is_imported_is_no_fault_of_the_plugin(
    install: Install,
) -> None:
    install("kd-slow", {"slow": "kd_slow:Method"}, source={"kd_slow": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        Catalog().load("slow")


@pytest.mark.parametrize("content", [b"[kdcore.strategies]\nno equals sign\n", b"\xff\xfe"])
@pytest.mark.parametrize("file", ["entry_points.txt", "METADATA"])
def test_metadata_that_cannot_be_read_affect_no_other(
    install: Install, file: str, content: bytes
) -> None:
    install("kd-good", {"good": "kd_good:Method"})
    folder = install("kd-torn", {"torn": "kd_torn:Method"})
    (folder / file).write_bytes(content)
    if (file, content[:1]) != ("METADATA", b"["):
        with pytest.raises((TypeError, UnicodeDecodeError)):
            _read_all(folder.parent)
    assert [listing.name for listing in _listings("good")] == ["good"]
    assert Catalog().load("good")[0].__name__ == "Method"


def test_a_distribution_without_metadata_is_listed_without_a_name(install: Install) -> None:
    folder = install("kd-bare", {"bare": "kd_bare:Method"})
    (folder / "METADATA").unlink()
    (listing,) = _listings("bare")
    assert str(listing.origin) == "unnamed 0"


@pytest.mark.parametrize("target", ["a sentence", "kd_odd", "kd_odd:", ":Method", "kd-odd:Method"])
def test_an_entry_point_that_is_no_module_and_attribute_is_listed_and_refused(
    install: Install, target: str
) -> None:
    install("kd-odd", {"odd": target}, source={"kd_odd": ""})
    (listing,) = _listings("odd")
    assert listing.problem == f"its entry point {target!r} is not module:attribute"
    assert listing.problem in _refused("odd")
    assert "kd_odd" not in sys.modules


# Versions


@pytest.mark.parametrize(
    "requires",
    [
        ["kdcore>=99"],
        ["KDcore<0.0.1"],
        ["kdcore>=0.0.1", "kdcore>=99"],
        ["kdcore>=99; python_version > '3'"],
    ],
)
def test_a_plugin_for_another_kdcore_is_listed_and_refused_without_being_imported(
    install: Install, requires: Sequence[str]
) -> None:
    install("kd-later", {"later": "kd_later:Method"}, requires=requires)
    (listing,) = _listings("later")
    assert listing.problem.startswith("it needs kdcore")
    assert f"this is kdcore {__version__}" in listing.problem
    assert listing.problem in _refused("later")
    assert "kd_later" not in sys.modules


@pytest.mark.parametrize(
    "requires",
    [
        [],
        ["kdcore"],
        [f"kdcore>={__version__}"],
        ["kdcore-extras>=99"],
        ["kdcore>=99; extra == 'test'"],
        ["kdcore>=99; python_version < '3'"],
        ["=== no requirement ===", "kdcore<99"],
    ],
)
def test_a_plugin_for_this_kdcore_is_loaded(install: Install, requires: Sequence[str]) -> None:
    install("kd-fits", {"fits": "kd_fits:Method"}, requires=requires)
    assert _listings("fits")[0].problem == ""
    assert Catalog().load("fits")[0].__name__ == "Method"


# One name, two distributions


@pytest.fixture
def twins(install: Install) -> None:
    install("kd-one", {"twin": "kd_one:Method", "one": "kd_one:Method"})
    install("Kd.Two", {"twin": "kd_two:Method"}, version="2.0")


@pytest.mark.usefixtures("twins")
def test_pluggys_own_loading_would_drop_the_second_of_two_that_claim_a_name() -> None:
    found = entry_points(group=STRATEGIES)
    assert sorted(e.value for e in found if e.name == "twin") == ["kd_one:Method", "kd_two:Method"]
    manager = pluggy.PluginManager(PROJECT)
    assert manager.load_setuptools_entrypoints(STRATEGIES, "twin") == 1
    assert entry_points(group=STRATEGIES)["twin"].value in ("kd_one:Method", "kd_two:Method")


@pytest.mark.usefixtures("twins")
def test_a_name_that_two_distributions_claim_is_refused_and_both_are_named() -> None:
    message = _refused("twin")
    assert "kd-one 1.0" in message
    assert "Kd.Two 2.0" in message
    named = message.rpartition("say which: ")[2]
    assert Catalog().load(named)[0].__name__ == "Method"
    listings = _listings("twin")
    assert len(listings) == 2
    for listing, other in zip(listings, reversed(listings), strict=True):
        assert listing.problem == f"its name is claimed by {other.origin} too"


@pytest.mark.usefixtures("twins")
def test_the_distribution_before_the_name_says_which_of_two_is_meant() -> None:
    assert Catalog().load("kd-one:twin")[0].__module__ == "kd_one"
    assert Catalog().load("Kd.Two:twin")[0].__module__ == "kd_two"
    assert Catalog().load("kd_two:twin")[0].__module__ == "kd_two"
    assert "unknown strategy 'kd-three:twin'" in _refused("kd-three:twin")


@pytest.mark.usefixtures("twins")
def test_a_name_that_two_claim_does_not_touch_the_other_names_of_either() -> None:
    assert _listings("one")[0].problem == ""
    assert Catalog().load("one")[0].__module__ == "kd_one"


def test_a_second_copy_of_one_distribution_is_no_rival(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("kd-one", {"one": "kd_one:Method"}, version="2.0")
    shadowed = tmp_path / "behind" / folder.name
    shadowed.mkdir(parents=True)
    for file in folder.iterdir():
        (shadowed / file.name).write_text(file.read_text().replace("2.0", "1.0"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(shadowed.parent)])
    assert len([d for d in distributions() if d.metadata["Name"] == "kd-one"]) == 2
    (listing,) = _listings("one")
    assert (listing.origin.version, listing.problem) == ("2.0", "")


# Names


def test_an_unknown_name_is_refused_with_the_nearest_and_how_to_install_it(
    install: Install,
) -> None:
    install("kd-hypnosis", {"hypnosis": "kd_hypnosis:Method"})
    message = _refused("hypnossis")
    assert message.startswith("unknown strategy 'hypnossis'; did you mean 'hypnosis'")
    assert "pip install" not in message  # that would be somebody else's package
    assert _refused("nobodys").endswith("install it: pip install kdcore-nobodys")


def test_nothing_to_install_is_offered_for_what_could_be_no_name() -> None:
    assert "pip install" not in _refused("rm -rf $HOME; x")


def test_what_a_terminal_might_obey_in_metadata_is_made_visible(install: Install) -> None:
    folder = install("kd-evil", {"\x1b[31mred": "kd_evil:Method"}, version="1\x1b[2J")
    metadata = folder / "METADATA"
    metadata.write_text(metadata.read_text().replace("the summary", "\x1b]0;title\x07"))
    (listing,) = [each for each in Catalog().listings() if each.target == "kd_evil:Method"]
    told = [listing.name, str(listing.origin), listing.summary, listing.target, listing.problem]
    told += [_refused("rred"), _refused("red\x1b[2J")]
    assert all(text.isprintable() for text in told)
    assert listing.name == r"\x1b[31mred"
    assert r"\x1b]0;title\x07" in listing.summary
    assert Catalog().load("\x1b[31mred")[0].__name__ == "Method"


def test_what_a_terminal_might_obey_in_an_exception_is_made_visible(install: Install) -> None:
    source = {"kd_evil": "raise ValueError('\\x1b[2Jgone')"}
    install("kd-evil", {"evil": "kd_evil:Method"}, source=source)
    assert _refused("evil").endswith(r"ValueError: \x1b[2Jgone")


def test_text_that_can_be_printed_is_left_as_it_is() -> None:
    assert printable("Zhang’s method, π ≈ 3") == "Zhang’s method, π ≈ 3"
    assert printable("a\tb\u202ec") == r"a\tb\u202ec"


# Blocking


@pytest.mark.parametrize("variable", ["bad", "bad,worse", " worse  bad ", "worse, bad"])
def test_a_name_that_the_environment_blocks_is_listed_refused_and_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    install("kd-bad", {"bad": "kd_bad:Method", "good": "kd_bad:Method"})
    monkeypatch.setenv(BLOCK_VARIABLE, variable)
    bad, good = _listings("bad", "good")
    assert bad.problem == f"blocked by name ({BLOCK_VARIABLE} or --no-strategy)"
    assert good.problem == ""
    for name in ("bad", "kd-bad:bad"):
        assert f"{name!r} is blocked by name" in _refused(name)
    assert "kd_bad" not in sys.modules


def test_a_name_that_the_caller_blocks_is_refused_beside_those_of_the_environment(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("kd-bad", {"bad": "kd_bad:Method", "worse": "kd_bad:Method"})
    monkeypatch.setenv(BLOCK_VARIABLE, "worse")
    catalog = Catalog(blocked=["bad"])
    assert "blocked" in _refused("bad", catalog)
    assert "blocked" in _refused("worse", catalog)
    assert Catalog().load("bad")[0].__name__ == "Method"
