"""Parts of kdcore measured alone: how hooks are called, how images come, how it starts.

What is kept of teachers is in `keeping`, whole trainings are in `cases`.
"""

import subprocess
import sys

import torch
from torch import Tensor

from kdcore.bench import ours, plain
from kdcore.bench.measure import Contender, Result, interleave, ratios, timed
from kdcore.bench.work import Settings, Work
from kdcore.contract import Features, Setup, State
from kdcore.data.augment import Augment
from kdcore.data.source import ImageSource
from kdcore.errors import RunError
from kdcore.hooks import HookCaller, Member
from kdcore.hookspecs import hookimpl
from kdcore.sections import AugmentConfig
from kdcore.strategy import Strategy

CALLS = 1000

START = """
import sys
from kdcore.cli.main import run_command
code = run_command(sys.argv[1:])
sys.stderr.write("with torch" if "torch" in sys.modules else "without torch")
sys.exit(code)
"""


class Constant(Strategy):
    """A method that computes nothing, so that what is measured is how it is asked."""

    loss = torch.zeros(())

    @hookimpl
    def compute_auxiliary_loss(self, student: Features, teacher: Features) -> Tensor:  # noqa: ARG002
        """Return what is there already."""
        return self.loss


def dispatch(settings: Settings, count: int = 3) -> Result:
    """Measure what asking so many strategies for their losses takes, a step."""
    members = [Member(f"constant{number}", Constant(), 1.0, "teacher") for number in range(count)]
    hooks, setup, state = HookCaller(members), Setup(), State({})
    features = Features({}, torch.zeros(1, 1))
    indices, generator = torch.zeros(1, dtype=torch.int64), torch.Generator()

    def steps() -> None:
        for step in range(CALLS):
            for member in members:
                hooks.compute_auxiliary_loss(
                    member,
                    setup=setup,
                    student=features,
                    teacher=features,
                    modules={},
                    state=state,
                    targets=indices,
                    indices=indices,
                    epoch=0,
                    step=step,
                    generator=generator,
                )

    took = interleave({"hooks": lambda: timed(steps)}, settings.repeats)["hooks"]
    values = [seconds / CALLS * 1e6 for seconds in took]
    words = {3: "three", 17: "seventeen"}
    what = f"hooks of {words.get(count, count)} strategies that compute nothing"
    return Result("overhead", what, "µs a step", values)


def data(settings: Settings) -> list[Result]:
    """Measure an epoch of batches against one of the tutorial's loader, as images a second."""
    work = Work.of(settings)
    loader = plain.new_loader(work)
    augment = Augment(AugmentConfig(crop=4, flip=True))
    sources = {
        "as they are": ours.new_source(work),
        "cropped and flipped": ours.new_source(work, augment),
    }

    def tutorial() -> None:
        for inputs, labels in loader:
            inputs.to(work.device), labels.to(work.device)

    def gather(source: ImageSource) -> None:
        for indices in torch.split(torch.randperm(len(work)), work.batch_size):
            source.batch(indices)

    contenders: dict[str, Contender] = {"tutorial": lambda: timed(tutorial, work.wait)}
    for name, source in sources.items():
        contenders[name] = lambda source=source: timed(  # type: ignore[misc]
            lambda: gather(source), work.wait
        )
    took = interleave(contenders, settings.repeats)
    return [
        Result(
            "data",
            f"images a second, {name}, to the tutorial's loader",
            "×",
            ratios(took["tutorial"], took[name]),
            {"tutorial": took["tutorial"], "kdcore": took[name]},
            {"images_a_second": [len(work) / seconds for seconds in took[name]]},
        )
        for name in sources
    ]


def startup(settings: Settings) -> list[Result]:
    """Measure how long commands take that only print, and see whether PyTorch was imported."""
    commands = {"kdcore --help": ["--help"], "kdcore strategies": ["strategies"]}
    said: dict[str, str] = {}

    def run(name: str, arguments: list[str]) -> None:
        command = [sys.executable, "-c", START, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said[name] = done.stderr.strip()
        if done.returncode:
            raise RunError(f"{name} failed with exit code {done.returncode}: {said[name]}")

    contenders: dict[str, Contender] = {
        name: lambda name=name, arguments=arguments: timed(  # type: ignore[misc]
            lambda: run(name, arguments)
        )
        for name, arguments in commands.items()
    }
    bare = [sys.executable, "-c", "pass"]
    contenders["python"] = lambda: timed(lambda: subprocess.run(bare, check=True))
    took = interleave(contenders, settings.repeats)
    return [
        Result(
            "startup",
            f"{name} ({said[name]})",
            "s",
            took[name],
            {"python": took["python"], name: took[name]},
            {
                "torch_imported": said[name] == "with torch",
                "to_python_alone": ratios(took[name], took["python"]),
            },
        )
        for name in commands
    ]
