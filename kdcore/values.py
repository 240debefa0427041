"""Tasks whose outputs are values of a sample: regression, several labels, and no task at all."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from kdcore.errors import ConfigError, DataError
from kdcore.tasks import Counts, Metric, Mixed, Task, has_target, misfit, per_cent

RegressionLoss = Literal["squared", "absolute", "huber"]
SampleMetric = Callable[[Tensor, Tensor], Tensor]
"""Of outputs and targets, one value a sample."""


class _Values(Task):
    """One row a sample, and targets that are numbers, NaN where one is not known."""

    def count(self, samples: int, targets: Tensor) -> Counts:
        """Count the samples, each a row, and the values that have a target."""
        return Counts(samples, samples, has_target(targets).sum())

    def outputs(self, targets: Tensor) -> int | None:
        """Return the number of values of a sample."""
        return targets.shape[1] if targets.ndim == 2 else 1

    def unlabelled(self, logits: Tensor) -> Tensor:
        """Return NaN for each value."""
        return torch.full_like(logits, torch.nan, requires_grad=False)


class Regression(_Values):
    """Numbers of a sample: R², mean absolute error, and root of the mean squared error.

    Outputs are ``[batch, values]`` or ``[batch]``, targets floating-point of the like, NaN where
    one is not known. Scores are computed for each value and averaged over values, each equal:
    R² is ``1 - Σ(y - p)² / Σ(y - ȳ)²``, of a value that does not vary 1 if it is met, else 0.

    Args:
        loss: of each value: ``"squared"``, ``(y - p)²``; ``"absolute"``; or ``"huber"``, half the
            squared error below 1, and the absolute less a half above.

    Raises:
        ConfigError: there is no such loss.
    """

    kind = "regression"
    met = "finite numbers"
    metrics = (
        Metric("R²"),
        Metric("MAE", higher_is_better=False),
        Metric("RMSE", higher_is_better=False),
    )
    targets = "floating-point numbers [samples, values], or [samples]"

    def __init__(self, loss: RegressionLoss = "squared") -> None:
        if loss not in get_args(RegressionLoss):
            raise ConfigError(f"regression has no loss {loss!r}: squared, absolute or huber")
        self.loss_name = loss

    def facts(self) -> dict[str, object]:
        """Return kind and loss."""
        return {**super().facts(), "loss": self.loss_name}

    def fits(self, targets: Tensor) -> bool:
        """Return whether there is a number of each sample, or several."""
        return targets.ndim in (1, 2) and targets.is_floating_point()

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """Return which are infinite."""
        return targets.isinf()

    def row_shape(self, logits: torch.Size) -> torch.Size:
        """Return ``[batch, values]``."""
        return torch.Size([*logits, 1]) if len(logits) == 1 else logits

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return each sample's values, ``[batch, values]``."""
        return _columns(logits)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each value, ``[batch, values]``, zero where there is no target.

        Raises:
            DataError: shapes do not fit, or targets are whole numbers.
        """
        outputs, known, wanted = self._checked(logits, targets)
        if self.loss_name == "squared":
            loss = F.mse_loss(outputs, wanted, reduction="none")
        elif self.loss_name == "absolute":
            loss = F.l1_loss(outputs, wanted, reduction="none")
        else:
            loss = F.huber_loss(outputs, wanted, reduction="none")
        return torch.where(known, loss, 0.0)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Add up, for each value: 1, y, y², (y - p)² and |y - p|."""
        outputs, known, wanted = self._checked(logits.double(), targets)
        error = wanted - outputs
        terms = (torch.ones_like(wanted), wanted, wanted.square(), error.square(), error.abs())
        sums = [torch.where(known, term, 0.0).sum(0) for term in terms]
        return torch.stack(sums).flatten()

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return R², mean absolute error and root mean squared error, means over the values."""
        sums = tally.view(5, -1)
        count, total, squares, errors, distances = sums[:, sums[0] > 0]
        if not len(count):
            return {}
        spread = squares - total.square() / count
        # Less than the rounding of the sums is nothing.
        varies = spread > 8 * torch.finfo(torch.float64).eps * squares
        r2 = torch.where(varies, 1 - errors / spread, (errors == 0).double())
        each = (r2, distances / count, (errors / count).sqrt())
        return {
            metric.name: float(value.mean())
            for metric, value in zip(self.metrics, each, strict=True)
        }

    def _checked(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs, which targets are known, and the targets, each ``[batch, values]``."""
        outputs, wanted = _columns(logits), _columns(targets)
        if outputs.ndim != 2 or outputs.shape != wanted.shape or not targets.is_floating_point():
            raise misfit(
                "regression takes outputs [batch, values] and floating-point targets "
                "[batch, values], or [batch] of either",
                logits,
                targets,
            )
        known = has_target(wanted)
        return outputs, known, torch.where(known, wanted, 0.0).to(outputs.dtype)


class MultiLabel(_Values):
    """Any number of labels a sample: binary cross-entropy, micro-averaged F1, label accuracy.

    Logits are ``[batch, labels]``, targets floating-point of the same shape: 1, 0, or NaN where
    it is not known. A label is predicted where its logit is above 0. F1 counts all labels of all
    samples together: ``2 TP / (2 TP + FP + FN)``. Label accuracy is the share of right answers.
    """

    kind = "multi-label"
    met = "0, 1, and what is between them"
    metrics = (Metric("F1", "%"), Metric("label accuracy", "%"))
    targets = "floating-point numbers [samples, labels]"

    def fits(self, targets: Tensor) -> bool:
        """Return whether there are numbers of each sample, a label each."""
        return targets.ndim == 2 and targets.is_floating_point()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy of each label, ``[batch, labels]``; 0 without target.

        Raises:
            DataError: shapes do not fit, or targets are whole numbers.
        """
        known, wanted = self._checked(logits, targets)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return torch.where(known, loss, 0.0)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count known labels, right answers, and true and false positives and false negatives."""
        known, wanted = self._checked(logits, targets)
        predicted, true = (logits > 0) & known, (wanted > 0.5) & known
        hits = predicted & true
        right = known & (predicted == true)
        counted = (known, right, hits, predicted & ~true, true & ~predicted)
        return torch.stack([each.sum() for each in counted]).double()

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return F1, 0 where nothing is there to be found or was, and label accuracy."""
        known, right, hits, wrong, missed = tally
        if not known:
            return {}
        f1, accuracy = self.metrics
        return {f1.name: 0.0} | per_cent(
            {accuracy.name: (right, known), f1.name: (2 * hits, 2 * hits + wrong + missed)}
        )

    def wrong(self, targets: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """Return which are neither within 0 and 1 nor NaN."""
        return (targets < 0) | (targets > 1)

    def _checked(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return which labels are known, and the targets, 0 where they are not."""
        if logits.ndim != 2 or logits.shape != targets.shape or not targets.is_floating_point():
            raise misfit(
                "multi-label takes logits [batch, labels] and floating-point targets "
                "[batch, labels]",
                logits,
                targets,
            )
        known = has_target(targets)
        return known, torch.where(known, targets, 0.0).to(logits.dtype)


class NoTask(Task):
    """No loss of its own: the student learns what strategies say alone.

    Args:
        metric: of outputs and targets, one value a sample, ``[batch]``, whose mean is the score;
            no score if not given.
        name: of the score.
        higher_is_better: whether more of it is better.
    """

    kind = "none"
    learns = False

    def __init__(
        self,
        metric: SampleMetric | None = None,
        name: str = "score",
        *,
        higher_is_better: bool = True,
    ) -> None:
        self._measure = metric
        self.metrics = () if metric is None else (Metric(name, "", higher_is_better),)

    def facts(self) -> dict[str, object]:
        """Return kind, what measures, and which way is better."""
        named = self._measure and (
            f"{getattr(self._measure, '__module__', '')}:"
            f"{getattr(self._measure, '__qualname__', type(self._measure).__qualname__)}"
        )
        code = getattr(self._measure, "__code__", None)
        said = code and [code.co_code.hex(), repr(code.co_consts), repr(code.co_names)]
        metric = self.metric and [self.metric.name, self.metric.higher_is_better]
        return {**super().facts(), "metric": named, "code": said, "score": metric}

    def count(self, samples: int, targets: Tensor) -> Counts:
        """Count the samples, each a row; none has a target that is learned."""
        nothing = torch.zeros((), dtype=torch.int64, device=targets.device)
        return Counts(samples, samples, nothing)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return zeros, ``[batch]``."""
        return logits.new_zeros(len(logits))

    def mixed_loss(self, logits: Tensor, targets: Tensor, mixed: Mixed | None) -> Tensor:  # noqa: ARG002
        """Return zeros: no label is learned, so that any may be mixed."""
        return self.loss(logits, targets)

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count the samples, and add up what the metric says of them.

        Raises:
            DataError: that is not one value a sample, or it failed.
        """
        if self._measure is None:
            return torch.zeros(2, dtype=torch.float64, device=logits.device)
        try:
            values = self._measure(logits, targets)
        except Exception as error:  # a user's function may fail in any way
            raise DataError(
                f"the metric {self.metrics[0].name!r} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(values, Tensor) or values.shape != (len(logits),):
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"the metric {self.metrics[0].name!r} must return one value a sample "
                f"[{len(logits)}], got {got}"
            )
        return torch.stack([values.new_tensor(len(logits)).double(), values.double().sum()])

    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return the mean of the metric."""
        if not self.metrics or not tally[0]:
            return {}
        return {self.metrics[0].name: float(tally[1] / tally[0])}


def _columns(values: Tensor) -> Tensor:
    return values.unsqueeze(1) if values.ndim == 1 else values
