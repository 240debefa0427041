"""The student of a finished run, built again from its folder."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.card import Card, card_of
from kdcore.configfile import as_run, read_file
from kdcore.data.prepared import PreparedData, prepare_data
from kdcore.errors import UserError
from kdcore.experiment import RunConfig
from kdcore.files import read_json
from kdcore.job import BEST_WEIGHTS, CONFIG, RESULT, STUDENT_WEIGHTS, begun_in
from kdcore.models.build import build_model
from kdcore.sections import AugmentConfig
from kdcore.task_kinds import task_of
from kdcore.tasks import Task
from kdcore.teacher_sections import TeacherConfig

COMPARISON = "comparison.toml"


@dataclass(frozen=True)
class FinishedRun:
    """A run of a student, as its folder has it.

    Attributes:
        folder: of its files.
        experiment: its resolved settings.
        result: what it came to, as JSON has it.
        root: where its data lie, if no longer where they did.
    """

    folder: Path
    experiment: RunConfig
    result: dict[str, Any]
    root: Path | None = None

    @classmethod
    def of(cls, folder: Path, root: Path | None = None) -> "FinishedRun":
        """Read it.

        Args:
            folder: of its files.
            root: where its data lie, if no longer where they did.

        Raises:
            UserError: it is no folder of a student's run, or the run was not finished.
        """
        if (folder / COMPARISON).is_file():
            some = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))
            example = f", such as {folder / some[0]}" if some else ""
            raise UserError(
                f"{folder} is the folder of a comparison: give one of the runs in it{example}"
            )
        if begun_in(folder)["kind"] != "student":
            raise UserError(f"{folder} is of a teacher: give the folder of a student's run")
        result = read_json(folder / RESULT)
        if not isinstance(result, dict) or not isinstance(result.get("weights"), dict):
            raise UserError(
                f"{folder}: this run was not finished: kdcore run --resume {folder} continues it"
            )
        file = folder / CONFIG
        return cls(folder, as_run(read_file(file), str(file)), result, root)

    @property
    def task(self) -> Task:
        """What the student is for."""
        return task_of(self.experiment.task, self.experiment.train)

    @cached_property
    def data(self) -> PreparedData:
        """Its data, prepared again: images are decoded whenever they are read, on the CPU."""
        given = self.experiment.data
        changed: dict[str, object] = {} if given.named else {"keep": "never", "workers": None}
        if self.root is not None:
            if given.root is None:
                raise UserError(f"--root would be ignored: {given.name} has no folder")
            changed["root"] = self.root.expanduser().absolute()
        # Teachers and views are for training: what they want is not asked for.
        alone = {
            "data": given.model_copy(update=changed),
            "teacher": TeacherConfig(),
            "teachers": None,
            "augment": AugmentConfig(),
        }
        return prepare_data(self.experiment.model_copy(update=alone), torch.device("cpu"))

    def weights(self, best: bool) -> Path:
        """Return the file of its weights, which is as the run wrote it.

        Raises:
            UserError: it is missing, or was changed since.
        """
        file = self.folder / (BEST_WEIGHTS if best else STUDENT_WEIGHTS)
        if not file.is_file():
            why = "the run held out nothing to choose the best on" if best else "copy it again"
            raise UserError(f"{file} does not exist: {why}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != self.result["weights"].get(file.name):
            raise UserError(
                f"{file} is not what the run wrote ({RESULT} holds another hash): copy the folder "
                "again, or repeat the run"
            )
        return file

    def card(self, best: bool) -> Card:
        """Return the card of its student, made again for a run that wrote none.

        Raises:
            UserError: its weights are missing or changed, or the card is damaged.
        """
        file = self.weights(best)
        scores = self.result["best_scores" if best else "scores"]
        return Card.of_weights(file) or card_of(
            self.experiment,
            self.data,
            str(self.result["name"]),
            self.experiment.seed,
            scores or {},
            best=best,
            origin=str(self.result.get("origin", "random")),
        )

    def student(self, card: Card, file: Path | None = None) -> nn.Module:
        """Build the student that a card of this run describes, on the CPU, in evaluation mode.

        Args:
            card: of this run.
            file: its weights; those of the run if not given.

        Raises:
            UserError: it cannot be built, or its weights do not fit it.
        """
        weights = file or self.weights(card.weights == "best")
        begins = {"weights": weights, "pretrained": False}
        config = self.experiment.student.model_copy(update=begins)
        given = card.image.size if card.image else self.data.student_given
        return build_model(config, card.outputs, given, "student", self.task).eval()


def load_student(folder: Path, *, best: bool = False) -> tuple[nn.Module, Card]:
    """Return the student of a finished run, on the CPU, in evaluation mode, and its card.

    Args:
        folder: of the run.
        best: whether to take the weights that were best on the validation split, not the last.

    Raises:
        UserError: there is no such run, it was not finished, or its files were changed.
    """
    run = FinishedRun.of(folder)
    card = run.card(best)
    return run.student(card), card
