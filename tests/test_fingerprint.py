import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.fingerprint import (
    CONTINUED,
    ENVIRONMENT,
    digest_of,
    fingerprint_of,
    fingerprint_of_facts,
    machine_facts,
    source_of,
)
from kdcore.models.tutorial import LightNN


def _net(activation: nn.Module, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(12, 4), activation, nn.Dropout(dropout), nn.Linear(4, 2))
    return nn.Sequential(*layers)


def test_a_digest_tells_names_shapes_and_values_apart() -> None:
    base = {"a": torch.tensor([1.0, 2.0])}
    assert digest_of(base) == digest_of({"a": torch.tensor([1.0, 2.0])})
    for other in (
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.5])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor(1.0)},
    ):
        assert digest_of(base) != digest_of(other)


def test_a_fingerprint_tells_models_of_equal_weights_apart_by_what_they_compute() -> None:
    base = fingerprint_of(_net(nn.ReLU()), 2)
    assert fingerprint_of(_net(nn.ReLU()), 2) == base
    assert fingerprint_of(_net(nn.GELU()), 2) != base
    assert fingerprint_of(_net(nn.ReLU(), dropout=0.5), 2) != base


def test_a_fingerprint_sees_a_changed_forward_of_equal_modules() -> None:
    class Net(nn.Module):
        scale = 1.0

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(x.flatten(1)) * self.scale
            return logits

    base = fingerprint_of(Net(), 2)
    Net.scale = 2.0
    assert fingerprint_of(Net(), 2) != base


def test_taking_a_fingerprint_leaves_mode_and_random_stream_alone() -> None:
    model = _net(nn.ReLU(), dropout=0.5).train()
    before = torch.get_rng_state()
    fingerprint_of(model, 2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_facts_have_one_fingerprint_in_any_order() -> None:
    assert fingerprint_of_facts({"a": 1, "b": 2}) == fingerprint_of_facts({"b": 2, "a": 1})
    assert fingerprint_of_facts({"a": 1}) != fingerprint_of_facts({"a": 2})


def test_a_class_without_a_file_has_no_source_nor_has_one_known_by_its_version() -> None:
    made = type("Made", (), {})
    made.__module__ = "nowhere"
    assert [source_of(each) for each in (int, nn.Linear, made)] == ["", "", ""]
    assert len(source_of(LightNN)) == 64


def test_a_class_changes_with_its_bases_and_with_what_stands_beside_it_in_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, base = tmp_path / "kd_method", tmp_path / "kd_base.py"
    package.mkdir()
    (package / "__init__.py").write_text("from kd_base import Base\nclass Method(Base): ...\n")
    (package / "helpers.py").write_text("x = 1\n")
    base.write_text("class Base: ...\n")
    (tmp_path / "kd_unrelated.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    method = importlib.import_module("kd_method").Method
    seen = [source_of(method)]
    for file in (package / "helpers.py", base, package / "__init__.py"):
        file.write_text(file.read_text() + "# changed\n")
        seen.append(source_of(method))
    assert len(set(seen)) == 4
    (tmp_path / "kd_unrelated.py").write_text("x = 2\n")
    assert source_of(method) == seen[-1]


def test_what_bits_depend_on_beside_inputs_is_what_says_where_it_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = machine_facts(torch.device("cpu"))
    assert facts["threads"] == torch.get_num_threads()
    of_others = {"processes", "kdcore", CONTINUED}  # of several alone, of jobs, of what went on
    assert set(facts) == ENVIRONMENT - of_others
    monkeypatch.setattr("kdcore.fingerprint.here", lambda: SimpleNamespace(count=2))
    assert set(machine_facts(torch.device("cpu"))) == set(facts) | {"processes"}


def test_a_rate_that_acts_in_training_alone_and_a_buffer_that_is_not_saved_count() -> None:
    class Net(nn.Module):
        def __init__(self, rate: float, bound: float) -> None:
            super().__init__()
            self.rate = rate
            self.fc = nn.Linear(12, 2)
            self.register_buffer("bound", torch.tensor(bound), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(x.flatten(1), self.rate, self.training)
            logits: Tensor = self.fc(x).clamp(max=self.bound)
            return logits

    seen = []
    for rate, bound in ((0.0, 99.0), (0.0, 99.0), (0.5, 99.0), (0.0, 50.0)):
        torch.manual_seed(0)
        seen.append(fingerprint_of(Net(rate, bound), 2))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_a_module_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kd_wrapper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("kd_wrapper")
    before = source_of(module)
    (tmp_path / "kd_wrapper.py").write_text("x = 2\n")
    assert "" != before != source_of(module)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4, 5)
        self._rate = 0.1
        self.rates = {"first": 0.1}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


def _freeze(model: _Layer) -> None:
    model.layer.bias.requires_grad_(False)


def _hook(model: _Layer) -> None:
    model.layer.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    "change",
    [
        _freeze,
        _hook,
        lambda model: setattr(model, "_rate", 0.2),
        lambda model: model.rates.update(first=0.2),
    ],
)
def test_what_changes_a_training_alone_changes_the_fingerprint(change: Any) -> None:
    torch.manual_seed(0)
    model = _Layer()
    before = fingerprint_of(model, 2)
    assert fingerprint_of(model, 2) == before  # the control
    change(model)
    assert fingerprint_of(model, 2) != before


def test_a_packages_subpackages_are_part_of_a_methods_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "outer_package"
    (package / "losses").mkdir(parents=True)
    for folder in (package, package / "losses"):
        (folder / "__init__.py").write_text("")
    (package / "losses" / "mse.py").write_text("SCALE = 1")
    (package / "losses" / "method.py").write_text("class Method: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    method = importlib.import_module("outer_package.losses.method").Method
    before = source_of(method)
    (package / "losses" / "mse.py").write_text("SCALE = 50")
    after = source_of(method)
    assert after != before
    (package / "__init__.py").write_text("CHANGED = 1")
    assert source_of(method) != after
