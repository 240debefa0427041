"""Formulas that several methods share, each with one value a sample."""

from torch import Tensor

from kdcore.contract import Setup, Shapes
from kdcore.errors import ModelError, StrategyError


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over each sample of ``(student - teacher)²``.

    Args:
        student: ``[batch, ...]``.
        teacher: the same shape; nothing is broadcast.

    Returns:
        ``[batch]``.

    Raises:
        StrategyError: the shapes differ.
    """
    require_same_shape(student, teacher)
    return (student - teacher).square().flatten(1).mean(1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row, ``KL(p ‖ q) = Σ p · (log p - log q)``.

    Args:
        log_p: logarithms of probabilities, ``[rows, classes]``: the teacher's, where predictions
            are compared; where ``p`` is zero a term is zero, whatever the logarithms are.
        log_q: the like of the student.

    Returns:
        ``[rows]``, finite with a finite gradient where ``log_q`` is finite, or ``p`` is zero.
    """
    p = log_p.exp()
    impossible = p == 0
    # Before they are subtracted: an infinite logarithm times zero is no number, its gradient too.
    log_p, log_q = (each.masked_fill(impossible, 0.0) for each in (log_p, log_q))
    return (p * (log_p - log_q)).sum(-1)


def require_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse two activations of unequal shapes, which PyTorch might broadcast in silence.

    Raises:
        StrategyError: names both shapes.
    """
    if student.shape != teacher.shape:
        raise StrategyError(
            f"the student's activation is {list(student.shape)}, the teacher's "
            f"{list(teacher.shape)}; an adapter must bring them to one shape"
        )


CLASSLESS = ("regression", "multi-label")
"""Tasks whose outputs are no scores of classes that exclude each other."""


def require_classes(setup: Setup) -> None:
    """Refuse tasks whose predictions have no probabilities of classes, such as regression.

    Raises:
        StrategyError: names the task.
    """
    if setup.task in CLASSLESS:
        raise StrategyError(
            f"compares probabilities of classes, which the outputs of {setup.task} are not: use "
            "a strategy that compares features"
        )


def require_same_classes(student: Shapes, teacher: Shapes) -> None:
    """Refuse models whose logits are not of the same classes.

    Args:
        student: the student's shapes, as `adapt_shapes` is given them.
        teacher: the teacher's.

    Raises:
        ModelError: names both class counts.
    """
    if student.logits[-1] != teacher.logits[-1]:
        raise ModelError(
            f"the student has {student.logits[-1]} classes and the teacher {teacher.logits[-1]}: "
            "their predictions cannot be compared; use models of the same classes, or a strategy "
            "that compares features"
        )
