"""The cases of `kdcore bench`: whole trainings, here, and parts, by name.

The loops are in `plain`, `bound` and `ours`, the parts in `parts` and `keeping`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import torch

from kdcore.bench import bound, keeping, methods, ours, parts, plain
from kdcore.bench.measure import Contender, Result, interleave, ratios, timed
from kdcore.bench.work import DISTILLATIONS, Method, Settings, Work
from kdcore.errors import ConfigError, unknown
from kdcore.execution import in_best_layout
from kdcore.machine import describe_machine

MANY = 17
"""Strategies, of whose hooks it is measured what they take together."""

SMALL = 128
"""Images that are learned from two at a time."""


def distil(settings: Settings) -> list[Result]:
    """Measure three distillations from a given teacher against the tutorial's loops."""
    what = "three distillations from a given teacher, to the tutorial's loops"
    return _against_tutorial("distil", what, settings, plain.distil, ours.distil)


def comparison(settings: Settings) -> list[Result]:
    """Measure the same with the teacher's training and the student alone before them."""
    what = "teacher, student alone and three distillations, to the tutorial's loops"
    return _against_tutorial("comparison", what, settings, plain.compare, ours.compare)


def _against_tutorial(
    case: str,
    what: str,
    settings: Settings,
    theirs: Callable[[Work], None],
    own: Callable[[Work], None],
) -> list[Result]:
    work = Work.of(settings)
    contenders: dict[str, Contender] = {
        "tutorial": lambda: timed(lambda: theirs(work), work.wait),
        "kdcore": lambda: timed(lambda: own(work), work.wait),
    }
    took = interleave(contenders, settings.repeats)
    return [Result(case, what, "×", ratios(took["tutorial"], took["kdcore"]), took)]


def bound_share(settings: Settings) -> list[Result]:
    """Measure three distillations against the tightest loops that plain PyTorch allows."""
    work = Work.of(settings)
    layout = bound.fastest_layout(work)
    contenders: dict[str, Contender] = {
        "bound": lambda: timed(lambda: bound.distil(work, layout), work.wait),
        "kdcore": lambda: timed(lambda: ours.distil(work), work.wait),
    }
    took = interleave(contenders, settings.repeats)
    shares = [100 * share for share in ratios(took["bound"], took["kdcore"])]
    what = "three distillations from a given teacher, of the bound's speed"
    return [Result("bound", what, "%", shares, took, {"bound_layout": asdict(layout)})]


def overhead(settings: Settings) -> list[Result]:
    """Measure kdcore's steps against the bound's, set-up and teacher left out; and its hooks.

    As a share of whole steps, and in microseconds a step on batches so small that the layers,
    whose time is noisy, take little.
    """
    work = Work.of(settings)
    shares, added = [], []
    for label, layout, took in _steps(work, settings.repeats):
        more = [100 * (ratio - 1) for ratio in ratios(took["kdcore"], took["bound"])]
        what = f"steps of {label}, more than the bound's"
        shares.append(Result("overhead", what, "%", more, took, {"bound_layout": asdict(layout)}))
    small = replace(work, images=work.images[:SMALL], targets=work.targets[:SMALL], batch_size=2)
    steps = small.epochs * SMALL // small.batch_size
    for label, _, took in _steps(small, settings.repeats):
        pairs = zip(took["kdcore"], took["bound"], strict=True)
        more = [1e6 * (own - tightest) / steps for own, tightest in pairs]
        what = f"a step of {label}, batch of 2, more than the bound's"
        added.append(Result("overhead", what, "µs a step", more, took))
    return [*shares, *added, parts.dispatch(settings), parts.dispatch(settings, MANY)]


def _steps(
    work: Work, repeats: int
) -> Iterator[tuple[str, bound.Layout, Mapping[str, list[float]]]]:
    """Train by each method in the bound's loop and in kdcore's; what each took, by method."""
    layout = bound.fastest_layout(work)
    images = bound.Images(work, layout)
    answers = bound.ask(work, images, layout)
    comparison = ours.Comparison(work)
    teacher = in_best_layout(work.new_teacher())
    comparison.expect(DISTILLATIONS, teacher)
    for method in Method:
        known = None if method is Method.ALONE else answers

        def tightest(method: Method = method, known: bound.Answers | None = known) -> float:
            training = bound.Training(work, method, layout, images, known)
            return timed(training.train, work.wait)

        def own(method: Method = method) -> float:
            with comparison.training(method, teacher) as training:
                return timed(training.run, work.wait)

        took = interleave({"bound": tightest, "kdcore": own}, repeats)
        yield comparison.label(method), layout, took


CASES: dict[str, Callable[[Settings], list[Result]]] = {
    "distil": distil,
    "comparison": comparison,
    "bound": bound_share,
    "overhead": overhead,
    "cache": keeping.keeping,
    "data": parts.data,
    "startup": parts.startup,
    "methods": methods.methods,
}


def chosen(names: Sequence[str] | None) -> list[str]:
    """Return the cases of these names, in their own order; all but methods if none is given.

    Raises:
        ConfigError: there is no such case.
    """
    for name in names or ():
        if name not in CASES:
            raise ConfigError(unknown("case", name, CASES))
    return [name for name in CASES if (name in names if names else name != "methods")]


def check(settings: Settings) -> None:
    """Refuse what cannot work, before anything is measured.

    Raises:
        UserError: the device does not exist, or does not compute in the precision.
    """
    ours.Comparison(_least(settings))


def _least(settings: Settings) -> Work:
    return Work.of(replace(settings, size=2))


def machine(settings: Settings) -> dict[str, object]:
    """Say what it was measured on."""
    device = _least(settings).device
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        **describe_machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "accelerator": accelerator,
    }


def as_json(
    machine: Mapping[str, object], settings: Settings, results: Sequence[Result]
) -> dict[str, object]:
    """Return all that was measured for programs: ``machine``, ``settings`` and ``cases``."""
    cases: dict[str, list[object]] = {}
    for result in results:
        line = {**asdict(result), **asdict(result.spread)}
        cases.setdefault(line.pop("case"), []).append(line)
    return {"machine": dict(machine), "settings": asdict(settings), "cases": cases}
