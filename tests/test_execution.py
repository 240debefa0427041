"""Number formats and compilation touch layers alone, and taps fire whatever was compiled before."""

import pytest
import torch
from torch import Tensor, nn

from kdcore import Adapters, Distiller, Features, Losses, Strategy, Taps, hookimpl, squared_error
from kdcore.errors import ConfigError
from kdcore.execution import PLAIN, Execution, in_best_layout

CPU = torch.device("cpu")
EAGER = Execution(backend="eager")  # captures the graph, and does not generate code
BFLOAT16 = Execution(torch.bfloat16)


class Net(nn.Module):
    """Layers that matter under autocast."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


SEEN: list[torch.dtype] = []


class Gram(Strategy):
    """Compares relations within the batch, and notes in what format they were computed."""

    @hookimpl
    def extract_features(self) -> Taps:
        return Taps(student={"hint": "body"}, teacher={"hint": "body"})

    @hookimpl
    def adapt_shapes(self) -> Adapters:
        return Adapters(student={"hint": nn.Linear(6, 8)})

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:
        grams = [torch.mm(hint, hint.T) for hint in (student["hint"], teacher["hint"])]
        SEEN.extend(t.dtype for t in (*grams, student.logits, teacher.logits))
        own, other = grams
        loss = squared_error(own, other)
        return torch.mean(loss)


X = torch.linspace(-1, 1, 20).reshape(5, 4)


def _losses(execution: Execution, strategy: Strategy | None = None) -> Tensor:
    torch.manual_seed(0)
    teacher, student = Net(8), Net()
    strategies = [strategy] if strategy else []
    with Distiller(
        teacher if strategy else None, student, strategies, sample_input=X, execution=execution
    ) as distiller:
        losses: Losses = distiller(X, torch.tensor([0, 1, 2, 0, -100]))
        losses.total.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in distiller.parameters())
    return losses.total.detach()


def test_adapters_and_losses_are_float32_while_layers_are_not() -> None:
    SEEN.clear()
    mixed = _losses(BFLOAT16, Gram())
    assert set(SEEN) == {torch.float32}
    plain = _losses(PLAIN, Gram())
    assert mixed.item() == pytest.approx(plain.item(), rel=0.05)
    assert mixed.item() != plain.item()  # the layers did compute in another format


def test_under_autocast_alone_a_gram_matrix_would_not_be() -> None:  # the control
    with torch.autocast("cpu", torch.bfloat16):
        assert (X @ X.T).dtype == torch.bfloat16


def test_the_student_alone_compiled_first_leaves_the_taps_of_the_next_run_alive() -> None:
    _losses(EAGER)
    compiled = _losses(EAGER, Gram())  # a tap that had not fired would have been an error
    assert torch.allclose(compiled, _losses(PLAIN, Gram()))


def test_what_was_compiled_before_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    _losses(PLAIN)
    assert not resets
    _losses(EAGER)
    assert resets == [1]


def test_a_compiled_model_runs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[object, object]] = []
    real = torch.compile

    def spy(model: nn.Module, backend: str) -> object:
        compiled.append((type(model), backend))
        return real(model, backend=backend)

    monkeypatch.setattr(torch, "compile", spy)
    _losses(EAGER, Gram())
    assert compiled == [(Net, "eager"), (Net, "eager")]


def test_half_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"precision = 'fp16-mixed' needs a GPU"):
        Execution.of("fp16-mixed", CPU, compiled=False)
    assert Execution.of("bf16-mixed", CPU, compiled=True) == Execution(torch.bfloat16, "inductor")
    assert Execution.of("32", CPU, compiled=False) == PLAIN


def test_what_convolves_is_laid_out_for_it_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 4, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    in_best_layout(model)
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    plain = nn.Linear(3, 4)
    in_best_layout(plain)
    assert plain.weight.is_contiguous()
