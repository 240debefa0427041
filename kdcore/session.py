"""An experiment from its settings to its report: rehearsed, taught, trained, shipped, reported.

Runs and comparisons of experiment files are carried out here alone: commands and Python calls read
options, and show what came of it. How one student is trained is in `run`, how several are compared
in `comparison`; the search for settings, in `tuning`, is a command of its own.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from kdcore import comparison, report
from kdcore.catalog import Catalog
from kdcore.context import Resume, RunContext
from kdcore.experiment import ComparisonConfig, Experiment, RunConfig
from kdcore.interruption import Interruption
from kdcore.job import CONFIG, STUDENT, RunResult
from kdcore.joblist import Student
from kdcore.processes import here, joined
from kdcore.run import run_student
from kdcore.shipping.choice import Attempt, attempt
from kdcore.shipping.formats import check_formats
from kdcore.teacher_runs import run_teachers, teacher_rows


@dataclass(frozen=True)
class Finished:
    """What came of an experiment.

    Attributes:
        results: its runs, teachers among them, in order.
        folder: of its report; where only one student of a comparison was trained there is none.
        first: whether this is the first of the processes that trained together: it alone ships,
            reports and has anything to tell.
        shipped: what came of exporting the student that ``[export]`` asks for.
    """

    results: tuple[RunResult, ...]
    folder: Path
    first: bool = True
    shipped: Attempt = field(default_factory=lambda: Attempt(()))


@dataclass(frozen=True)
class Session:
    """How an experiment is carried out.

    Attributes:
        out: folder for all files.
        quiet: whether to print nothing on the way.
        blocked: names of strategies that are never imported.
        command: whether the process is there for it alone: then it hears signals, and joins the
            processes that were started together with it.
    """

    out: Path
    quiet: bool = False
    blocked: Collection[str] = ()
    command: bool = False

    def run(
        self,
        config: RunConfig,
        name: str = "",
        resume: Resume | None = None,
        repeats: Path | None = None,
    ) -> Finished:
        """Train the one student of an experiment, and its teachers where they come without weights.

        Args:
            config: the run.
            name: of it; the experiment's own if not given.
            resume: the run that shall be continued; whatever is found begun if not given.
            repeats: folder of the finished run that is made again, if it is.

        Raises:
            UserError: it cannot be set up.
            RunError: it failed.
        """
        name = name or config.name or STUDENT
        with self._context(config, resume=resume, repeats=repeats) as context:
            taught = any(config.strategy_lists)
            models = context.new_teachers(config.seed) if taught else {}
            lines = comparison.rehearse(context, config.seed, models, config.plan)
            for line in (comparison.data_line(context), *context.data.notes, *lines):
                context.console.print(line, markup=False, soft_wrap=True)
            teachers = run_teachers(context, config.seed) if taught else {}
            results = teacher_rows(context, config.seed, teachers)
            results.append(run_student(context, config.seed, name, config.plan, teachers))
            done = Finished(tuple(results), Path(results[-1].folder), here().first)
        return _delivered(context, done, f"kdcore run: {name}", CONFIG)

    def compare(
        self, config: ComparisonConfig, name: str, only: Sequence[Student] | None = None
    ) -> Finished:
        """Train the students of a comparison, and their teachers.

        Args:
            config: the comparison.
            name: of it, for its report.
            only: the students that shall be trained; all, if not given. Of some nothing is
                shipped or reported.

        Raises:
            UserError: a candidate cannot be set up.
            RunError: a run failed; those that were finished are kept.
        """
        with self._context(config, apart=only is not None) as context:
            results = comparison.compare(context, config, only)
            done = Finished(tuple(results), context.out, here().first)
        title = f"kdcore compare: {name}"
        return done if only is not None else _delivered(context, done, title, comparison.COMPARISON)

    @contextmanager
    def _context(
        self,
        config: Experiment,
        *,
        resume: Resume | None = None,
        apart: bool = False,
        repeats: Path | None = None,
    ) -> Iterator[RunContext]:
        """Make what all runs share; inside the block they are trained."""
        if config.export is not None:
            check_formats(config.export)
        if not self.command:
            yield self._shared(config, None, resume, apart, repeats)
            return
        interruption = Interruption()
        with interruption.listening(), joined(config.processes.timeout):
            yield self._shared(config, interruption, resume, apart, repeats)

    def _shared(
        self,
        config: Experiment,
        interruption: Interruption | None,
        resume: Resume | None,
        apart: bool,
        repeats: Path | None,
    ) -> RunContext:
        quiet = self.quiet or not here().first
        return RunContext(
            config,
            self.out,
            Console(quiet=quiet, highlight=False, emoji=False),
            Catalog(blocked=self.blocked),
            resume=resume,
            interruption=interruption,
            apart=apart,
            repeats=repeats,
        )


def _delivered(context: RunContext, done: Finished, title: str, settings: str) -> Finished:
    """Ship what the experiment asks for, and write its report; the first process does."""
    if not done.first:
        return done
    shipped = attempt(context.experiment, done.results, context.note)
    about = comparison.about(context, settings)
    report.write_report(done.folder, title, about, done.results)
    return replace(done, shipped=shipped)
