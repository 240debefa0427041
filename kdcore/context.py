"""What the runs of an experiment share: data, device, folder, cache and display, each made once.

The runs themselves are in `run`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn

from kdcore.beforehand import Starts, try_losses
from kdcore.cache import SignalCache, answers_for
from kdcore.catalog import WRAPPERS, Catalog, own_version
from kdcore.contract import Setup
from kdcore.costs import Costs, costs_of
from kdcore.data.prepared import PreparedData, prepare_data
from kdcore.data.source import Source
from kdcore.devices import find_device
from kdcore.distiller import Distiller
from kdcore.errors import NoLogitsError, StrategyError
from kdcore.execution import Execution, in_best_layout
from kdcore.experiment import Experiment, StageConfig, StrategyConfig
from kdcore.files import check_folder, read_json
from kdcore.fingerprint import ENVIRONMENT, difference, machine_facts, source_of
from kdcore.interruption import Interruption
from kdcore.job import CHECKPOINTS, RESULT, STUDENT, Job
from kdcore.machine import machine_line
from kdcore.models.build import Built, build, code_of
from kdcore.outcome import outcome_of
from kdcore.parallel import check_alike, check_several
from kdcore.processes import here
from kdcore.randomness import derive_seed
from kdcore.saving import Saver
from kdcore.sections import ModelConfig, TrainConfig
from kdcore.selection import teachers_used
from kdcore.sharding import spread
from kdcore.task_kinds import task_of
from kdcore.tasks import Task
from kdcore.teacher_sections import AnyTeacherConfig, TeacherConfig, ensembles_in
from kdcore.teachers import TEACHER, title_of
from kdcore.tensorboard import check_installed


@dataclass(frozen=True)
class Resume:
    """A run that shall be continued.

    Attributes:
        folder: of its files.
        exact: whether to refuse where the machine or versions differ.
    """

    folder: Path
    exact: bool = False


class RunContext:
    """What all runs of an experiment share: data, device, folder and display.

    Args:
        experiment: the experiment.
        out: folder for all files.
        console: where progress is printed.
        catalog: where strategies are looked up.
        resume: the run that shall be continued; whatever is found begun if not given.
        interruption: hears signals, before which trainings are saved.
        apart: whether others train students of the same experiment in processes of their own.
        repeats: folder of the finished run whose settings the experiment is; what is no longer as
            it was for it, such as the weights in a folder that they name, is said.

    Raises:
        UserError: the data, the device or the folder cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        console: Console,
        catalog: Catalog | None = None,
        *,
        resume: Resume | None = None,
        interruption: Interruption | None = None,
        apart: bool = False,
        repeats: Path | None = None,
    ) -> None:
        self.experiment = experiment
        self.resume = resume
        self.repeats = repeats
        self.interruption = interruption
        self.console = console
        self.catalog = catalog or Catalog()
        for strategies in experiment.strategy_lists:
            self.teachers_of(strategies)  # what is misspelt fails at once
        if experiment.train.shard:
            check_several(here(), "train.shard")
        for name, teacher in experiment.model_teachers.items():
            if teacher.shard:
                check_several(here(), f"shard of {title_of(name)}")
        if experiment.log.tensorboard:
            check_installed()
        self.device = find_device(experiment.device)
        self.out = out
        check_folder(out)  # made when there is something to write: what fails before leaves none
        wrappers = Catalog(WRAPPERS)
        self.wrappers = {name: wrappers.load(name)[0] for name in experiment.wrappers}
        self.data: PreparedData = prepare_data(experiment, self.device)
        self.cache = SignalCache(experiment.cache, self.note, shared=apart)
        self._starts = Starts(self._student, f"student {experiment.student.model!r}")
        self._costs: dict[str, Costs] = {}
        self._models: dict[str, Built] = {}

    def note(self, text: str) -> None:
        """Print a line about the training that runs."""
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def task(self, config: TrainConfig) -> Task:
        """Return the task of a training."""
        return task_of(self.experiment.task, config)

    def new_student(self, seed: int) -> nn.Module:
        """Build the student with the initial weights of a seed, the same for every run."""
        return in_best_layout(self._starts.new(seed))

    def _student(self) -> nn.Module:
        return self._built(self.experiment.student, self.data.student_given, STUDENT)

    def teachers_of(self, strategies: Sequence[StrategyConfig]) -> dict[str, AnyTeacherConfig]:
        """Return the teachers that some strategies learn from, members of ensembles included."""
        teachers = self.experiment.teachers_by_name
        return teachers_used(strategies, teachers, ensembles_in(teachers), self.catalog)

    def new_teacher(self, seed: int, name: str = TEACHER) -> nn.Module:
        """Build a teacher, with its weights where the experiment names a file that is there.

        Of several, each has initial weights of its own.
        """
        config = self.experiment.model_teachers[name]
        seed = config.own_seed(seed)
        torch.manual_seed(seed if name == TEACHER else derive_seed(seed, title_of(name)))
        if self.kept_answers[name] is not None:
            bare = dict.fromkeys(("weights", "classes", "class_map", "fit"))
            config = config.model_copy(update=bare)
        given = self.data.teachers[name].given
        return in_best_layout(self._built(config, given, title_of(name)))

    def built(self, title: str) -> Built:
        """Return how a model that was built came about: ``"student"``, or a teacher by title."""
        return self._models[title]

    def new_teachers(self, seed: int) -> dict[str, nn.Module]:
        """Build every teacher that is a model of its own, ready to be asked."""
        names = self.experiment.model_teachers
        return {name: self.to_ask(name, self.new_teacher(seed, name)) for name in names}

    def to_ask(self, name: str, model: nn.Module) -> nn.Module:
        """Put a teacher where it is asked: on the device, or in pieces on those of all processes.

        From then on all processes ask it equally often.
        """
        if not self.experiment.model_teachers[name].shard:
            return model.to(self.device)
        spread(model, self.device, here().count)
        return model

    def _built(self, config: ModelConfig, given: Any, where: str) -> nn.Module:
        task = self.task(self.experiment.train)
        outputs = self.data.outputs if task.learns or self.data.classes else None
        built = build(config, outputs, given, where, task, self.data.classes)
        # A model may be large: what is kept of it here is what is said of it.
        self._models[where] = replace(built, model=nn.Module())
        return built.model

    @cached_property
    def kept_answers(self) -> Mapping[str, Mapping[str, Any] | None]:
        """By teacher: facts of one whose weights are missing but whose answers are kept."""
        return {name: self._answers_of(name) for name in self.experiment.model_teachers}

    def _answers_of(self, name: str) -> Mapping[str, Any] | None:
        config = self.experiment.model_teachers[name]
        if config.weights is None or config.weights.exists():
            return None
        wanted = {
            "weights": str(config.weights),
            "model": config.model,
            "data": self.data.student.fingerprint_for(name),
            "measured_on": self.data.teachers[name].fingerprint,
        }
        return answers_for(self.experiment.cache, wanted)

    def distiller(
        self,
        seed: int,
        student: nn.Module,
        models: Mapping[str, nn.Module],
        stage: StageConfig,
    ) -> Distiller:
        """Set up one stage of the student, with those of the teachers that it learns from."""
        train = self.experiment.stage_train(stage)
        teachers = {
            name: models[name] if isinstance(each, TeacherConfig) else each.spec
            for name, each in self.teachers_of(stage.strategies).items()
        }
        sample = self.data.student.batch(torch.arange(min(2, len(self.data.student))))
        with self._other_classes_explained(teachers):
            return Distiller(
                teachers,
                student,
                stage.strategies,
                task_weight=stage.task_weight,
                sample_input=sample.inputs,
                teacher_sample_input=sample.teacher_inputs,
                setup=Setup(class_count=self.data.outputs, targets=self.data.student.targets),
                task=self.task(train),
                seed=seed,
                device=self.device,
                catalog=self.catalog,
                wrappers=self.wrappers,
                execution=self.execution(train),
                trainable=stage.trainable,
            )

    @contextmanager
    def _other_classes_explained(self, teachers: Collection[str]) -> Iterator[None]:
        """Say what to do where a strategy asks for the logits of a teacher of other classes."""
        try:
            yield
        except StrategyError as error:
            titles = [title_of(name) for name in teachers]
            strange = [each for each in titles if each in self._models]
            strange = [each for each in strange if self._models[each].head == "other"]
            if not strange or not isinstance(error.__cause__, NoLogitsError):
                raise
            has = self._models[strange[0]].classes or "no"
            raise StrategyError(
                f"{error}: the head of {strange[0]} has {has} classes of its own, the data has "
                f"{self.data.outputs}; fit it first ([teacher.fit] mode = 'head'), say which are "
                "the data's (teacher.class_map), or use methods that compare features alone"
            ) from error

    def keep_outcome(
        self, model: nn.Module, file: Path, test: Source, validation: Source | None
    ) -> str | None:
        """Write what a model says of the test samples; return the file, None where none is."""
        task = self.task(self.experiment.train)
        outcome = outcome_of(model, test, validation, self.data.classes, task)
        if outcome is None:
            return None
        outcome.save(file)
        return str(file)

    def costs(self, who: str, model: nn.Module, source: Source) -> Costs:
        """Measure what a model costs, once for all of its runs.

        With the first teacher a student is measured in turns, so that their latencies compare.

        Args:
            who: ``"student"``, or a teacher's title.
            model: the model.
            source: samples whose student's inputs it takes.
        """
        if who not in self._costs:
            measured = {who: (model, _first(source))}
            if who != STUDENT and STUDENT not in self._costs:
                measured[STUDENT] = self._another_student(), _first(self.data.student)
            found = costs_of(*measured.values())
            self._costs |= dict(zip(measured, found, strict=True))
        return self._costs[who]

    def _another_student(self) -> nn.Module:
        """Build a student as all are, and leave the random streams where they were."""
        accelerators = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(accelerators):
            return self.new_student(next(iter(self._starts.seeds), 0)).to(self.device)

    def try_losses(self, distiller: Distiller) -> None:
        """Compute all losses of a few samples; see `beforehand.try_losses`.

        Raises:
            StrategyError: a strategy fails, or its loss is none.
        """
        with self._other_classes_explained(distiller.teachers):
            try_losses(distiller, self.data.student)

    def execution(self, config: TrainConfig) -> Execution:
        """Return how models' layers are computed in a training."""
        return Execution.of(config.precision, self.device, config.compile)

    def job(
        self, name: str, seed: int, facts: Mapping[str, object], *, teacher: str | None = None
    ) -> Job:
        """Return a job that depends on the given facts and on those that all runs depend on.

        Args:
            name: of its row.
            seed: of it.
            facts: its own.
            teacher: name of the teacher that is trained; a student is, if not given.
        """
        taught = (
            self.data.fingerprint if teacher is None else self.data.teachers[teacher].fingerprint
        )
        shared = {
            "name": name,
            "seed": seed,
            "data": taught,
            **machine_facts(self.device),
            "kdcore": own_version(),
            "wrappers": {name: source_of(each) for name, each in self.wrappers.items()},
            # The size of views is part of the data's hash, said or not.
            "augment": self.experiment.augment.model_dump(mode="json", exclude={"image_size"}),
            "task": self.experiment.task.model_dump(mode="json"),
            "metric": code_of(self.experiment.task.metric or ""),
        }
        kind: Literal["teacher", "student"] = "teacher" if teacher else "student"
        every = {**shared, **facts}
        check_alike({name: each for name, each in every.items() if name not in ENVIRONMENT})
        facts, machine = here().agreed(every), machine_line(self.device)
        job = Job(kind, name, seed, facts, self.out, machine, self.data.samples)
        if self.repeats is not None and not teacher:
            self._say_what_changed(self.repeats, job.facts)
        if self.resume is None or teacher:
            return job
        return job.continuing(self.resume.folder, self.note, exact=self.resume.exact)

    def _say_what_changed(self, folder: Path, facts: Mapping[str, object]) -> None:
        """Say where a run that is made again is not what it was."""
        saved = read_json(folder / RESULT)
        before = saved.get("facts") if isinstance(saved, dict) else None
        if isinstance(before, dict) and (told := difference(before, facts)):
            self.note(f"not the run in {folder} again: {told}")

    def saver(self, job: Job, stage: int = 0, teacher_seconds: float = 0.0) -> Saver:
        """Return what saves a stage, from 0, of a job's training.

        Args:
            job: whose.
            stage: which.
            teacher_seconds: what asking teachers took before it.
        """
        return Saver(
            job.folder / CHECKPOINTS / f"stage{stage + 1}",
            self.experiment.checkpoint,
            job.facts,
            interruption=self.interruption,
            note=self.note,
            teacher_seconds=teacher_seconds,
        )


def _first(source: Source) -> Any:
    """Return the student's inputs of a source's first sample."""
    return source.batch(torch.arange(1), teacher=False).inputs
