"""The part of the page about trust: calibration, agreement with the teacher, shares of losses."""

from collections.abc import Sequence

from kdcore.report.analysis import DROWNS, drowning
from kdcore.report.columns import NOTHING, mean_text
from kdcore.report.figures import reliability, shares
from kdcore.report.folder import Shares
from kdcore.report.html import Section, details, figure, grid, paragraph, table, warning
from kdcore.report.study import RowStudy, Study
from kdcore.statistics import summarise

FEWEST_MEASURED = 3
"""With fewer measurements of shares nothing is said to drown."""

FOLDED = 8
"""From so many figures on they are folded away."""

AGREEMENT = (
    "",
    "teacher",
    "same class (%)",
    "KL(teacher ‖ student)",
    "both right (%)",
    "teacher alone right (%)",
    "student alone right (%)",
)
CALIBRATION = (
    "",
    "ECE (%)",
    "cross-entropy",
    "temperature",
    "ECE, scaled (%)",
    "cross-entropy, scaled",
)


def sections(study: Study) -> list[Section]:
    """Return this part's sections; none where nothing is known."""
    found = []
    if study.said:
        found.append(Section("calibration", "Calibration", _calibration(study)))
    if lines := agreement_lines(study):
        note = (
            "Share of the test samples of which both say the same class, labelled or not, and the "
            "mean divergence of the student's probabilities from the teacher's, in nats; the rest "
            "is of the labelled samples."
        )
        body = table(AGREEMENT, lines, "Agreement with the teacher", {1}) + paragraph(note, "note")
        found.append(Section("agreement", "Agreement with the teacher", body))
    if any(row.shares for row in study.rows):
        found.append(Section("gradients", "Shares in the gradient", _gradients(study)))
    return found


def calibration_lines(study: Study) -> list[list[str]]:
    """Return the cells of the table of calibration."""
    lines = []
    for row in study.said:
        scaled = bool(row.temperatures)
        lines.append(
            [
                row.title,
                _over(row.calibration.errors, ".1f"),
                _over(row.calibration.losses, ".3f"),
                _over(row.temperatures, ".2f") if scaled else NOTHING,
                _over(row.scaled.errors, ".1f") if scaled else NOTHING,
                _over(row.scaled.losses, ".3f") if scaled else NOTHING,
            ]
        )
    return lines


def _over(values: Sequence[float], form: str) -> str:
    return mean_text(summarise(values), form)


def _calibration(study: Study) -> str:
    fitted = any(row.temperatures for row in study.said)
    note = (
        "Expected calibration error (ECE; Guo et al. 2017, 15 bins): by how much confidence and "
        "accuracy differ in the mean. "
    )
    counts = sorted({count for row in study.said for count in row.fitted_on})
    note += (
        "The temperature was fitted to the labelled validation samples of each run "
        f"({' or '.join(map(str, counts))}: of few it is a rough guess), never to the test "
        "samples; a teacher is not asked of these."
        if fitted
        else "No temperature could be fitted: there were no validation samples."
    )
    figures = [
        figure(
            reliability(
                row.title,
                sum(row.calibration.errors) / len(row.calibration.errors),
                row.calibration.bins,
                row.scaled.bins,
            ),
            f"reliability-{place}",
        )
        for place, row in enumerate(study.said)
    ]
    key = (
        "Bars: accuracy by confidence of all seeds together; on the diagonal a model is as sure as "
        "it is right, below it too sure."
    )
    key += " Dots: after temperature scaling." if fitted else ""
    width = None if fitted else 3
    lines = [line[:width] for line in calibration_lines(study)]
    return (
        table(CALIBRATION[:width], lines, "Calibration on the test samples")
        + paragraph(note, "note")
        + grid(figures, "small")
        + paragraph(key, "note")
    )


def agreement_lines(study: Study) -> list[list[str]]:
    """Return the cells of the table of agreement."""
    return [
        [
            row.title,
            name,
            _over([one.same for one in each], ".1f"),
            _over([one.divergence for one in each], ".3f"),
            _over([one.both_right for one in each], ".1f"),
            _over([one.teacher_only for one in each], ".1f"),
            _over([one.student_only for one in each], ".1f"),
        ]
        for row in study.said
        for name, each in row.agreements.items()
    ]


def drowned(study: Study) -> list[str]:
    """Say of which rows one loss drowns the others."""
    found = []
    for row in study.rows:
        measured = [each.shares for run in row.shares for each in run]
        if len(measured) < FEWEST_MEASURED:
            continue
        loss = drowning(measured)
        if loss is not None:
            found.append(
                f"{row.title}: the loss {loss[0]!r} has {loss[1]:.0f} % of the gradient in the "
                f"median, more than {DROWNS:.0f} %: it drowns the others. Its weight may be too "
                "high, or theirs too low."
            )
    return found


def _gradients(study: Study) -> str:
    rows = [row for row in study.rows if row.shares]
    figures = [
        figure(shares(row.title, [each.shares for each in _mean(row)]), f"shares-{place}")
        for place, row in enumerate(rows)
    ]
    about = (
        "The norm of each weighted loss's gradient over the student's parameters, divided by the "
        "sum of all losses' norms, measured before some of the steps, mean over seeds. There is a "
        f"warning where one loss has more than {DROWNS:.0f} % in the median of {FEWEST_MEASURED} "
        "or more measurements."
    )
    shown = grid(figures)
    if len(figures) > FOLDED:
        shown = details(f"{len(figures)} figures", shown)
    alarms = "".join(warning(text) for text in drowned(study))
    return alarms + shown + paragraph(about, "note")


def _mean(row: RowStudy) -> list[Shares]:
    """Return a row's shares, mean over its runs, measurement by measurement."""
    found = []
    for several in zip(*row.shares, strict=False):
        labels = dict.fromkeys(label for each in several for label in each.shares)
        means = {
            label: sum(each.shares.get(label, 0.0) for each in several) / len(several)
            for label in labels
        }
        found.append(Shares(several[0].epoch, several[0].step, means))
    return found
