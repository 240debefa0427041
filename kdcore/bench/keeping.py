"""What is kept of teachers, measured alone: how fast it is written and read, what it takes.

The teacher answers at once, so that its layers are no part of it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from kdcore.asking import Request
from kdcore.bench.measure import Result, interleave, ratios, timed
from kdcore.bench.work import Settings
from kdcore.cache import SignalCache, open_store
from kdcore.data.source import Batch, Source
from kdcore.frozen_teacher import FrozenTeacher
from kdcore.listening import SignalSource
from kdcore.sections import CacheConfig
from kdcore.signals import SignalKey
from kdcore.taps import TapAddress

STATUS = Path("/proc/self/status")
CPU = torch.device("cpu")
BATCH = 128
PLACES = {"memory": "in memory", "disk": "on disk"}
RESIDENT = {"anonymous": "RssAnon", "file": "RssFile"}


class _Answer(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        # The same to each sample: a teacher whose answer depends on the place is not kept.
        self.answer = torch.randn(1, *shape).repeat(BATCH, *(1 for _ in shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer[: len(x)]


class Ready(nn.Module):
    """A teacher whose answers are there already: what the tutorial's methods want of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = _Answer(32, 8, 8)
        self.vectors = _Answer(1024)
        self.head = _Answer(10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[batch, 10]``."""
        self.maps(x)
        self.vectors(x)
        logits: Tensor = self.head(x)
        return logits


class Numbers(Source):
    """Samples that are their own index, so that making a batch takes no time.

    Args:
        count: how many.
    """

    views = 1

    def __init__(self, count: int) -> None:
        self.targets = torch.zeros(count, dtype=torch.int64)

    @property
    def fingerprint(self) -> str:
        """A name, which caches on disk need."""
        return f"numbers {len(self)}"

    def batch(self, indices: Tensor, view: int = 0, *, teacher: bool = True) -> Batch:  # noqa: ARG002
        """Return the indices."""
        return Batch(indices, indices, self.targets[indices], indices, view)


class Keeping:
    """Writing and reading what a teacher says of many samples.

    Args:
        samples: how many.
        mode: ``"memory"`` or ``"disk"``.
        folder: where the disk's are.
    """

    def __init__(self, samples: int, mode: str, folder: Path) -> None:
        self._source = Numbers(samples)
        self._config = CacheConfig.model_validate({"mode": mode, "folder": folder})
        self._kept: SignalSource | None = None

    @contextmanager
    def _request(self) -> Iterator[Request]:
        taps = {SignalKey(TapAddress(name)): None for name in ("maps", "vectors")}
        teacher = FrozenTeacher(Ready(), taps, "teacher")
        yield Request({"teacher": teacher}, self._source, BATCH, CPU, {"teachers": "ready"})
        teacher.release()

    def forget(self) -> None:
        """Let go of what is kept, so that it is written again."""
        self._kept = None
        open_store(self._config).clear()

    def build(self) -> None:
        """Keep what the teacher says of all samples."""
        with self._request() as request:
            self._kept = SignalCache(self._config, lambda _: None).source(request)

    def gather(self) -> int:
        """Read all samples a batch at a time, in a random order; return their bytes."""
        assert self._kept is not None
        nbytes = 0
        for indices in torch.split(torch.randperm(len(self._source)), BATCH):
            for heard in self._kept.signals(self._source.batch(indices)).values():
                nbytes += sum(tensor.nbytes for _, tensor in heard.named())
        return nbytes


def keeping(settings: Settings) -> list[Result]:
    """Measure writing and reading against a copy of the same bytes, and what is resident."""
    results = []
    with TemporaryDirectory() as folder:
        for mode in PLACES:
            results += _speeds(settings, mode, Path(folder))
        if STATUS.exists():
            for mode in PLACES:
                results += _resident(settings, mode, Path(folder))
    return results


def _speeds(settings: Settings, mode: str, folder: Path) -> list[Result]:
    kept = Keeping(settings.size, mode, folder)
    kept.build()
    nbytes = kept.gather()
    here = torch.ones(nbytes, dtype=torch.uint8)
    there = torch.zeros(nbytes, dtype=torch.uint8)

    def build() -> float:
        kept.forget()
        return timed(kept.build)

    took = interleave(
        {
            "copy": lambda: timed(lambda: there.copy_(here)),
            "build": build,
            "gather": lambda: timed(kept.gather),
        },
        settings.repeats,
    )
    return [
        Result(
            "cache",
            f"{work} {PLACES[mode]}, of the speed of a copy of the same bytes",
            "%",
            [100 * share for share in ratios(took["copy"], took[work])],
            {"copy": took["copy"], work: took[work]},
            {"bytes": nbytes, "bytes_a_second": [nbytes / seconds for seconds in took[work]]},
        )
        for work in ("build", "gather")
    ]


def _resident(settings: Settings, mode: str, folder: Path) -> list[Result]:
    """Ask a process of its own what it holds: this one's memory has seen too much."""
    code = "import sys; from kdcore.bench.keeping import report; report(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(settings.size), mode, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seen = json.loads(done.stdout)
    return [
        Result(
            "cache",
            f"resident when all was read {PLACES[mode]}: {kind}, of its bytes",
            "%",
            [100 * seen[kind] / seen["bytes"]],
            facts={"bytes": seen["bytes"], "resident": seen[kind]},
        )
        for kind in RESIDENT
    ]


def report(samples: str, mode: str, folder: str) -> None:
    """Keep and read what a teacher says, and write as JSON by how much this process grew."""
    first = Keeping(BATCH, mode, Path(folder))
    for kept in (first, Keeping(int(samples), mode, Path(folder))):
        # The first of them brings in what is loaded when it is first used.
        kept.forget()
        before = held()
        kept.build()
        nbytes = kept.gather()
        grown = {kind: now - before[kind] for kind, now in held().items()}
    sys.stdout.write(json.dumps({"bytes": nbytes, **grown}))


def held() -> dict[str, int]:
    """Return the bytes that this process has in memory, of its own and of files; on Linux."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {kind: int(found[name].split()[0]) * 1024 for kind, name in RESIDENT.items()}
