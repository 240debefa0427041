"""Teachers are asked once where that can be known to be enough, and never answer for another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from kdcore.adapters import AveragePool
from kdcore.asking import Identity, Request
from kdcore.cache import SignalCache, answers_for, default_folder, open_store
from kdcore.data.source import Batch, DatasetSource, Source
from kdcore.errors import ConfigError
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.listening import KeptSignals, LiveSignals, SignalSource
from kdcore.sections import CacheConfig
from kdcore.signals import SignalKey
from kdcore.store import Slot, Store
from kdcore.taps import TapAddress
from tests.clock import Clock

CPU = torch.device("cpu")
TAP = SignalKey(TapAddress("0"))
POOLED = SignalKey(TapAddress("0"), "flatten,average-pool:2")
FACTS = {"teacher_is": "fingerprint"}
X = torch.linspace(-1, 1, 33).reshape(11, 3)


class Views(Source):
    """Samples whose views are multiples of them; knows its fingerprint."""

    def __init__(self, views: int | None = 1, fingerprint: str | None = "data") -> None:
        self.targets = torch.zeros(len(X), dtype=torch.int64)
        self.views = views
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        inputs = X[indices] * (view + 1)
        return Batch(inputs, inputs, self.targets[indices], indices, view)


class Counting(nn.Sequential):
    """A teacher that counts its passes."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        for layer in self:
            x = layer(x)
        return x


def _model(seed: int = 0) -> Counting:
    torch.manual_seed(seed)
    return Counting(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def _frozen(model: nn.Module, *keys: SignalKey) -> dict[str, FrozenTeacher]:
    adapters = {key: AveragePool(2) if key.adapter else None for key in keys or (TAP,)}
    return {"teacher": FrozenTeacher(model, adapters, "teacher")}


class Desk:
    """A cache in a folder, and what it said."""

    def __init__(self, folder: Path, **config: object) -> None:
        self.lines: list[str] = []
        self.config = CacheConfig.model_validate({"folder": folder, **config})
        self.cache = SignalCache(self.config, self.lines.append)

    def source(
        self,
        model: nn.Module,
        source: Source | None = None,
        *keys: SignalKey,
        facts: Mapping[str, object] | None = FACTS,
    ) -> SignalSource:
        return self.cache.source(Request(_frozen(model, *keys), source or Views(), 4, CPU, facts))


def _same(kept: SignalSource, model: nn.Module, source: Source, view: int = 0) -> bool:
    batch = source.batch(torch.tensor([9, 2, 10, 9]), view)
    live = LiveSignals(_frozen(model), 4).signals(batch)["teacher"]
    read = kept.signals(batch)["teacher"]
    return all(
        torch.equal(tensor, other)
        for (_, tensor), (_, other) in zip(live.named(), read.named(), strict=True)
    )


@pytest.mark.parametrize("mode", ["memory", "disk", "auto"])
@pytest.mark.parametrize("views", [1, 3])
def test_what_is_kept_is_what_the_teacher_says_of_each_view(
    tmp_path: Path, mode: str, views: int
) -> None:
    model, source, desk = _model(), Views(views), Desk(tmp_path, mode=mode)
    kept = desk.source(model, source)
    assert isinstance(kept, KeptSignals)
    # Two samples for the shapes, 11 in fours, and a batch to see whether places matter.
    assert model.passes == 1 + 3 * views + 1
    assert all(_same(kept, model, source, view) for view in range(views))
    assert not _same(kept, _model(1), source)  # the control
    again = "once" if views == 1 else "3 times, once a view"
    assert f"the teacher runs {again}; what it says is kept in" in desk.lines[0]
    assert desk.lines[0].endswith("KiB")


def test_asking_is_timed_once_and_waiting_for_who_asks_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, model = Clock(monkeypatch), _model()
    locked = Store.locked

    @contextmanager
    def after_others(self: Store, key: str) -> Iterator[Slot]:
        with locked(self, key) as slot:
            clock.later += 1_000_000.0  # they had it so long
            yield slot

    monkeypatch.setattr(Store, "locked", after_others)
    signals = LiveSignals.signals
    monkeypatch.setattr(LiveSignals, "signals", clock.passing(1000.0, signals))
    first, later = Desk(tmp_path, mode="disk"), Desk(tmp_path, mode="disk")
    first.source(model)
    # 11 samples in fours, and a batch to see whether places matter; none for the shapes.
    assert 4000 <= first.cache.asking_seconds < 5000
    first.source(model)
    assert first.cache.asking_seconds < 5000
    assert clock.later > 1_000_000.0  # the control: there was waiting
    later.source(model)
    assert later.cache.asking_seconds == 0
    live = Desk(tmp_path, mode="off")
    live.source(model)
    assert live.cache.asking_seconds == 0


def test_runs_of_one_process_share_what_is_kept_and_later_ones_find_it_on_disk(
    tmp_path: Path,
) -> None:
    for mode in ("memory", "disk"):
        model, desk = _model(), Desk(tmp_path, mode=mode)
        desk.source(model)
        before = model.passes
        kept = desk.source(model)
        assert "does not run" in desk.lines[-1]
        assert model.passes == before
        assert _same(kept, model, Views())
    later, model = Desk(tmp_path, mode="disk"), _model()
    later.source(model)
    assert model.passes == 3  # one sample for the shapes, and eight, in fours, to compare
    assert later.lines == [line for line in later.lines if "was kept in" in line]


def test_lines_are_said_once_where_runs_are_alike(tmp_path: Path) -> None:
    for once in (False, True):  # each time is usual
        model, desk = _model(), Desk(tmp_path, mode="memory")
        if once:
            desk.cache.say_lines_once()
        for _ in range(3):
            desk.source(model)
        assert len(desk.lines) == (2 if once else 3)
        assert len(set(desk.lines)) == 2


def test_what_other_runs_will_want_is_computed_in_the_same_pass(tmp_path: Path) -> None:
    model, desk = _model(), Desk(tmp_path, mode="memory")
    desk.cache.expect(_frozen(model, POOLED))
    desk.source(model)
    before = model.passes
    kept = desk.source(model, None, POOLED)
    assert model.passes == before
    read = kept.signals(Views().batch(torch.tensor([4])))["teacher"]
    assert read.activations[POOLED].shape == (1, 2)
    alone = Desk(tmp_path, mode="memory")  # the control: unexpected, it costs another pass
    alone.source(model)
    before = model.passes
    alone.source(model, None, POOLED)
    assert model.passes > before


def test_on_disk_an_entry_serves_who_wants_less(tmp_path: Path) -> None:
    model = _model()
    wide = Desk(tmp_path, mode="disk")
    wide.source(model, None, TAP, POOLED)
    narrow = Desk(tmp_path, mode="disk")
    assert _same(narrow.source(model, None, TAP), model, Views())
    assert "was kept in" in narrow.lines[0]
    assert len(open_store(narrow.config).entries()) == 1


CHANGES: list[dict[str, object]] = [
    {"facts": {"teacher_is": "another"}},
    {"facts": {**FACTS, "precision": "bf16-mixed"}},
    {"source": Views(fingerprint="other images")},
    {"source": Views(2)},
    {"batch_size": 5},
    {"dtype": "float16"},
    {"keys": (TAP, POOLED)},
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_nothing_is_read_for_another_teacher_data_set_tap_or_way_of_computing(
    tmp_path: Path, change: dict[str, object]
) -> None:
    model = _model()
    Desk(tmp_path, mode="disk").source(model)
    given = {"facts": FACTS, "source": Views(), "batch_size": 4, "dtype": "float32", "keys": (TAP,)}
    for case, found in (({}, True), (change, False)):
        now = {**given, **case}
        desk = Desk(tmp_path, mode="disk", dtype=now["dtype"])
        keys, facts, source = now["keys"], now["facts"], now["source"]
        assert isinstance(keys, tuple)
        assert isinstance(facts, dict)
        assert isinstance(source, Source)
        size = now["batch_size"]
        assert isinstance(size, int)
        desk.cache.source(Request(_frozen(model, *keys), source, size, CPU, facts))
        assert ("does not run" in desk.lines[0]) == found


def test_a_stale_cache_is_caught_though_its_key_fits(tmp_path: Path) -> None:
    Desk(tmp_path, mode="disk").source(_model(0))
    desk, other = Desk(tmp_path, mode="disk"), _model(1)
    kept = desk.source(other)  # the same fingerprint, wrongly
    assert "is not what the teacher says; the teacher is asked again" in desk.lines[0]
    assert _same(kept, other, Views())
    again = Desk(tmp_path, mode="disk")
    again.source(other)
    assert "does not run" in again.lines[0]


def test_a_damaged_entry_is_asked_for_again_and_said_to_be(tmp_path: Path) -> None:
    model = _model()
    Desk(tmp_path, mode="disk").source(model)
    (entry,) = tmp_path.glob("*.arrays")
    array = max(entry.iterdir(), key=lambda file: file.stat().st_size * (file.suffix != ".json"))
    data = bytearray(array.read_bytes())
    data[5] ^= 1
    array.write_bytes(bytes(data))
    desk = Desk(tmp_path, mode="disk")
    kept = desk.source(model)
    assert "teacher cache:" in desk.lines[0]
    assert "kept in" in desk.lines[1]
    assert _same(kept, model, Views())


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        ({"memory": 264, "disk": 10**6}, "memory"),
        ({"memory": 263, "disk": 10**6}, "disk"),
        ({"memory": 263, "disk": 263}, "live"),
    ],
)
def test_it_is_kept_where_it_fits(tmp_path: Path, limits: dict[str, int], place: str) -> None:
    desk = Desk(tmp_path, **limits)
    kept = desk.source(_model())  # 11 samples of 2 logits and 4 activations, 4 bytes each: 264
    assert isinstance(kept, LiveSignals) == (place == "live")
    assert bool(list(tmp_path.glob("*.arrays"))) == (place == "disk")
    if place == "live":
        assert "runs every epoch: what it says takes 0.3 KiB, more than" in desk.lines[0]


def test_without_fingerprints_it_is_kept_for_one_training_alone(tmp_path: Path) -> None:
    model, desk = _model(), Desk(tmp_path)
    for source, facts in ((Views(), None), (Views(fingerprint=None), FACTS)):
        before = model.passes
        for _ in range(2):
            desk.source(model, source, facts=facts)
        assert model.passes - before == 2 * 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_samples_that_change_cannot_be_kept(tmp_path: Path, mode: str) -> None:
    changing = DatasetSource(TensorDataset(X, torch.zeros(11, dtype=torch.int64)), "train_data")
    with pytest.raises(ConfigError, match=f"cache.mode = '{mode}' needs samples that are the same"):
        Desk(tmp_path, mode=mode).source(_model(), changing)
    desk = Desk(tmp_path)
    assert isinstance(desk.source(_model(), changing), LiveSignals)
    assert "not the same every epoch" in desk.lines[0]


def test_keeping_on_disk_needs_fingerprints_and_off_is_off(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache\.mode = 'disk' needs data and teachers with a"):
        Desk(tmp_path, mode="disk").source(_model(), facts=None)
    off = Desk(tmp_path, mode="off")
    assert isinstance(off.source(_model()), LiveSignals)
    assert off.lines == ["the teacher runs every epoch, as asked"]


def test_no_hook_and_no_mode_is_left_on_the_teacher(tmp_path: Path) -> None:
    model = _model()
    teachers = _frozen(model)
    Desk(tmp_path).cache.source(Request(teachers, Views(), 4, CPU, FACTS))
    teachers["teacher"].release()
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_the_folder_is_the_users_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KDCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "kdcore" / "teachers"
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"


@pytest.mark.parametrize(("mode", "source"), [("off", Views()), ("auto", Views(None))])
def test_a_teacher_without_weights_is_never_asked(
    tmp_path: Path, mode: str, source: Source
) -> None:
    absent = {"teacher": Identity("t", absent=True)}
    request = Request(_frozen(_model()), source, 4, CPU, FACTS, absent)
    with pytest.raises(ConfigError, match="weights are missing, so that it cannot be asked"):
        Desk(tmp_path, mode=mode).cache.source(request)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_a_shorter_format_too_live_and_kept_are_the_same(tmp_path: Path, dtype: str) -> None:
    model, batch = _model(), Views().batch(torch.tensor([9, 2, 10]))

    def said(mode: str, dtype: str) -> dict[str, Tensor]:
        source = Desk(tmp_path, mode=mode, dtype=dtype).source(model)
        return dict(source.signals(batch)["teacher"].named())

    live, kept, exact = said("off", dtype), said("memory", dtype), said("off", "float32")
    assert all(torch.equal(live[name], kept[name]) for name in exact)
    assert not torch.equal(exact["logits"], kept["logits"])


def test_an_entry_on_disk_is_opened_once_a_process(tmp_path: Path) -> None:
    model, desk = _model(), Desk(tmp_path, mode="disk")
    desk.source(model)
    before = model.passes
    desk.source(model)
    assert model.passes == before


class Crowd(nn.Module):
    """A teacher that compares each sample with those beside it, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _model()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x - x.mean(0))
        return logits


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_a_teacher_that_looks_at_the_batch_is_not_kept(tmp_path: Path, mode: str) -> None:
    tap = SignalKey(TapAddress("layers.0"))
    desk = Desk(tmp_path)
    assert isinstance(desk.source(Crowd(), None, tap), LiveSignals)
    assert "depends on the samples beside" in desk.lines[-1]
    assert desk.cache.asking_seconds == 0  # what is asked in vain is no asking for all runs
    with pytest.raises(ConfigError, match="depends on the samples beside it, so that it cannot"):
        Desk(tmp_path, mode=mode).source(Crowd(), None, tap)
    assert not list(tmp_path.glob("*.arrays"))


def test_that_it_is_not_kept_is_found_out_once(tmp_path: Path) -> None:
    tap, desk, teacher = SignalKey(TapAddress("layers.0")), Desk(tmp_path), Crowd()
    for passes in (5, 0):
        before = teacher.layers.passes
        assert isinstance(desk.source(teacher, None, tap), LiveSignals)
        assert teacher.layers.passes - before == passes
        assert "depends on the samples beside" in desk.lines[-1]


def test_rounding_that_depends_on_the_place_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcore.cache.apart", lambda *_: 6e-8)
    desk = Desk(tmp_path)
    assert isinstance(desk.source(_model()), KeptSignals)
    assert "depends on its place in the batch by 6e-08" in desk.lines[-1]


def test_a_missing_teacher_of_whom_there_were_several_is_not_guessed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, mode="disk")
    wanted = {"weights": "t.safetensors", "model": "deepnn"}
    for number, name in enumerate(("one", "two")):
        known = {"teacher": Identity(name, wanted)}
        request = Request(_frozen(_model(number)), Views(), 4, CPU, {}, known)
        desk.cache.source(request)
        if name == "one":
            found = answers_for(desk.config, wanted)
            assert found is not None
            assert found["teacher"] == "one"
    with pytest.raises(ConfigError, match=r"t\.safetensors is missing, and answers of several"):
        answers_for(desk.config, wanted)
    assert answers_for(desk.config, {**wanted, "model": "lightnn"}) is None
