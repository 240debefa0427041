"""What came out of a comparison, as the documentation keeps it.

`kdcore reproduce` saves it as JSON, from which the pages are written.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import UserError
from kdcore.experiment import ComparisonConfig
from kdcore.files import read_json
from kdcore.job import RunResult, machines_of
from kdcore.joblist import Joined
from kdcore.tables import settings_digest


def record_of(name: str, config: ComparisonConfig, joined: Joined) -> dict[str, Any]:
    """Return what came out of a table, as JSON has it: its runs, and where it was saved.

    Args:
        name: of the table.
        config: the comparison.
        joined: what there is of it.
    """
    bare = {"epochs": (), "best_epoch": None, "folder": "", "outcome": None}
    return {
        "table": name,
        "settings": settings_digest(config),
        "data": config.data.name,
        "about": list(joined.about),
        "missing": len(joined.missing),
        "made": _days(joined.results),
        "machine": ", and on ".join(machines_of(joined.results)),
        "seconds": sum(_trained_once(joined.results)),
        "runs": [
            {**asdict(each), **bare, "origin": _placeless(each.origin)} for each in joined.results
        ],
    }


def _placeless(origin: str) -> str:
    """Return where a model's weights began, without the folder that a file of them is in."""
    return Path(origin).name if Path(origin).is_absolute() else origin


def _trained_once(results: Sequence[RunResult]) -> list[float]:
    """Return the seconds of each training and the asking before it, a teacher of all seeds once."""
    once = {(each.name, each.folder): each for each in results}
    return [each.seconds + each.teacher_seconds for each in once.values()]


def _days(results: Sequence[RunResult]) -> str:
    """Return the day on which results were trained, or the first and the last."""
    days = sorted({each.made for each in results if each.seconds and each.made})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "on a day not noted"


@dataclass(frozen=True)
class Measured:
    """A table as it came out.

    Attributes:
        name: of the table.
        settings: hash of the comparison's settings.
        data: name of its data, as `[data]` has it.
        about: what was compared.
        missing: how many of its students were not trained.
        made: the day of its trainings, or the first and the last.
        machine: what they ran on, each machine once.
        seconds: of all its trainings, asking teachers included.
        results: its runs, without what each epoch came to.
    """

    name: str
    settings: str
    data: str
    about: tuple[str, ...]
    missing: int
    made: str
    machine: str
    seconds: float
    results: tuple[RunResult, ...]

    @classmethod
    def read(cls, file: Path) -> "Measured":
        """Read a table that was saved.

        Raises:
            UserError: it is not there, or no table.
        """
        known = read_json(file)
        try:
            known["results"] = tuple(RunResult.of(each) for each in known.pop("runs"))
            known["about"] = tuple(known["about"])
            return cls(name=known.pop("table"), **known)
        except (AttributeError, KeyError, TypeError):
            raise UserError(f"{file} is no table that kdcore reproduce --save wrote") from None

    def samples(self, row: str) -> set[str]:
        """Return the hashes of the samples that a row's runs were trained and tested on.

        One where these are the same; empty text where one does not say.
        """
        return {each.samples for each in self.results if each.name == row}

    def scores(self, row: str) -> dict[int, float]:
        """Return the score that counts of a row, by seed."""
        return {
            each.seed: each.scores[each.metric.name]
            for each in self.results
            if each.name == row and each.metric
        }
