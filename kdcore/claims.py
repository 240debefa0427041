"""What the documentation claims: differences between rows of tables that were measured."""

from dataclasses import dataclass

from kdcore.errors import UserError
from kdcore.job import STUDENT
from kdcore.measured import Measured
from kdcore.statistics import Summary, paired


@dataclass(frozen=True)
class Claim:
    """A difference between rows of two tables that the documentation speaks of.

    Attributes:
        said: what it is.
        over: table and row that is compared with.
        of: table and row that is compared.
    """

    said: str
    over: tuple[str, str]
    of: tuple[str, str]


DISTILLED = "distilled"
"""What the recipes call the student that they are about."""

CLAIMS = (
    Claim(
        "strong, 10 epochs, over the tutorial's student alone",
        ("tutorial", STUDENT),
        ("strong", DISTILLED),
    ),
    Claim("strong, 10 epochs, over its control", ("strong", STUDENT), ("strong", DISTILLED)),
    Claim(
        "strong, 30 epochs, over the tutorial's student alone",
        ("tutorial", STUDENT),
        ("strong-30", DISTILLED),
    ),
    Claim("strong, 30 epochs, over its control", ("strong-30", STUDENT), ("strong-30", DISTILLED)),
    Claim(
        "few-labels, 500 labels, over its control",
        ("few-labels", STUDENT),
        ("few-labels", DISTILLED),
    ),
    Claim(
        "few-labels, 500 labels and a third more steps, over the student alone of strong",
        ("strong", STUDENT),
        ("few-labels", DISTILLED),
    ),
)


def common_seeds(over: tuple[Measured, str], of: tuple[Measured, str]) -> list[int]:
    """Return the seeds that rows of two tables both have."""
    return sorted(over[0].scores(over[1]).keys() & of[0].scores(of[1]).keys())


def gain(over: tuple[Measured, str], of: tuple[Measured, str]) -> Summary:
    """Compare rows of two tables, paired by the seeds that both have.

    Raises:
        UserError: they are of different samples or it is not known of which, or have no seed in
            common.
    """
    base, own = over[0].scores(over[1]), of[0].scores(of[1])
    pairs = [(own[seed], base[seed]) for seed in common_seeds(over, of)]
    if not pairs:
        raise UserError(
            f"rows {over[1]} of {over[0].name} and {of[1]} of {of[0].name} have no seed in common"
        )
    samples = [table.samples(row) for table, row in (over, of)]
    for (table, row), found in zip((over, of), samples, strict=True):
        if len(found) != 1 or "" in found:
            raise UserError(
                f"{table.name} does not say which samples row {row} is of: make it again with "
                "kdcore reproduce"
            )
    if samples[0] != samples[1]:
        raise UserError(
            f"{over[0].name} and {of[0].name} are of different samples, and no gain over one "
            f"another: {over[0].about[0]}; {of[0].about[0]}"
        )
    return paired(pairs)
