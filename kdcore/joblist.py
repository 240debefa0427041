"""The students of a comparison by number, what each came to, and all of that put together.

Each can be trained by itself, on another machine that sees the same folder. How one is trained is
in `run`, how they are compared in `comparison`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import ConfigError, UserError
from kdcore.experiment import CandidateConfig, ComparisonConfig, StageConfig
from kdcore.files import make_folder, read_json, write_json
from kdcore.job import STUDENT, RunResult

RECORDS = "students"
"""Folder, within a comparison's, of what each student came to."""


@dataclass(frozen=True)
class Student:
    """One student of a comparison.

    Attributes:
        number: of it, from 0.
        seed: its seed.
        name: of its row: ``"student"`` for the student alone, or a candidate's label.
        plan: its stages.
    """

    number: int
    seed: int
    name: str
    plan: tuple[StageConfig, ...]

    @property
    def alone(self) -> bool:
        """Whether it learns from no teacher."""
        return self.name == STUDENT


def students(config: ComparisonConfig) -> list[Student]:
    """Return the students of a comparison: seed by seed, the student alone before the others."""
    plans: dict[str, tuple[StageConfig, ...]] = {}
    if config.task.kind != "none":  # alone it would learn nothing
        plans[STUDENT] = (StageConfig(task_weight=1.0),)
    for each in config.candidates:
        plans[each.label] = plan_of(config, each)
    each_seed = [(seed, name, plan) for seed in config.seeds for name, plan in plans.items()]
    return [Student(number, *rest) for number, rest in enumerate(each_seed)]


def numbered(config: ComparisonConfig, number: int) -> Student:
    """Return one student of a comparison.

    Raises:
        ConfigError: there are fewer.
    """
    found = students(config)
    if not 0 <= number < len(found):
        raise ConfigError(f"--only {number}: there are students 0 to {len(found) - 1} (--list)")
    return found[number]


def plan_of(config: ComparisonConfig, candidate: CandidateConfig) -> tuple[StageConfig, ...]:
    """Return a candidate's stages, the experiment's task weight where they have none."""
    return tuple(
        stage
        if stage.task_weight is not None
        else stage.model_copy(update={"task_weight": config.task_weight})
        for stage in candidate.plan
    )


def record(
    out: Path,
    description: bytes,
    student: Student,
    results: Sequence[RunResult],
    about: Sequence[str],
    facts: Mapping[str, object],
) -> None:
    """Write down what a student and its teachers came to.

    Args:
        out: the comparison's folder.
        description: the comparison, as it is written there.
        student: which.
        results: its teachers' and, last, its own.
        about: what a report says of the comparison.
        facts: what its students have in common, as JSON has it: data, code, and of each teacher
            who it is.
    """
    known = {
        "comparison": _digest(description),
        "about": list(about),
        "facts": dict(facts),
        "results": [asdict(result) for result in results],
    }
    write_json(make_folder(out / RECORDS) / f"{student.number}.json", known)


@dataclass(frozen=True)
class Joined:
    """What there is of a comparison.

    Attributes:
        results: of every run that is finished, in order.
        missing: the students that are not.
        about: what a report says of the comparison.
    """

    results: tuple[RunResult, ...]
    missing: tuple[Student, ...]
    about: tuple[str, ...]


def join(out: Path, description: bytes, config: ComparisonConfig) -> Joined:
    """Put together what there is of a comparison.

    Raises:
        UserError: there is nothing, or not all of it is of the same data, code and teachers.
    """
    common: dict[tuple[int | None, str], tuple[Student, object]] = {}
    taught: dict[tuple[int, str], RunResult] = {}
    learned: list[RunResult] = []
    missing: list[Student] = []
    about: tuple[str, ...] = ()
    for student in students(config):
        known = read_json(out / RECORDS / f"{student.number}.json")
        if not _is_of(known, description):
            missing.append(student)
            continue
        _check_common(common, student, known["facts"], config)
        about = tuple(known["about"])
        *teachers, own = map(RunResult.of, known["results"])
        taught |= {(each.seed, each.name): each for each in teachers}
        learned.append(own)
    if not learned:
        raise UserError(
            f"no student of the comparison in {out} is finished: train one with kdcore compare "
            "FILE --only NUMBER"
        )
    # As `compare` has them: seed by seed, the teachers first.
    results = sorted([*taught.values(), *learned], key=lambda each: config.seeds.index(each.seed))
    return Joined(tuple(results), tuple(missing), about)


def _check_common(
    common: dict[tuple[int | None, str], tuple[Student, object]],
    student: Student,
    facts: Mapping[str, Any],
    config: ComparisonConfig,
) -> None:
    """Hold what a student was trained with against those before it.

    Teachers are of a seed, but for those that have one of their own.
    """
    shared: dict[tuple[int | None, str], object] = {
        (None, name): value for name, value in facts.items() if name != "teachers"
    }
    for name, who in facts["teachers"].items():
        own = config.model_teachers[name].seed if name in config.model_teachers else None
        shared[student.seed if own is None else None, f"teacher {name}"] = who
    for key, value in shared.items():
        first, before = common.setdefault(key, (student, value))
        if before != value:
            raise UserError(
                f"students {first.number} and {student.number} were trained with different things "
                f"({key[1]}): they cannot stand in one table; train one of them again "
                "(kdcore compare FILE --only NUMBER)"
            )


def _is_of(known: object, description: bytes) -> bool:
    """Return whether a record is whole, and of a comparison."""
    keys = {"comparison", "about", "facts", "results"}
    return (
        isinstance(known, Mapping)
        and keys <= known.keys()
        and known["comparison"] == _digest(description)
    )


def _digest(description: bytes) -> str:
    return hashlib.sha256(description).hexdigest()
