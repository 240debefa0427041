"""What each installed method costs: training by it, to the same training of the student alone."""

from kdcore.bench import ours
from kdcore.bench.measure import Contender, Result, interleave, ratios, timed
from kdcore.bench.work import Settings, Work
from kdcore.catalog import Catalog
from kdcore.execution import in_best_layout
from kdcore.experiment import StrategyConfig


def methods(settings: Settings) -> list[Result]:
    """Measure whole trainings, set-up and the teacher's one pass left out, method by method."""
    work = Work.of(settings)
    teacher = in_best_layout(work.new_teacher())
    results = []
    for listing in Catalog().listings():
        if listing.problem:
            continue
        # What is kept of the teacher for one method is let go before the next.
        comparison = ours.Comparison(work)

        def trained(*names: str, comparison: ours.Comparison = comparison) -> float:
            strategies = [StrategyConfig(name=name) for name in names]
            with comparison.training_by(strategies, teacher) as training:
                return timed(training.run, work.wait)

        contenders: dict[str, Contender] = {
            "alone": trained,
            listing.name: lambda name=listing.name, trained=trained: trained(name),  # type: ignore[misc]
        }
        took = interleave(contenders, settings.repeats)
        share = ratios(took[listing.name], took["alone"])
        results.append(
            Result("methods", f"training by {listing.name}, to the student alone", "×", share, took)
        )
    return results
