"""The part of the page about test samples: classes, confusions, pictures, a teacher's opinions."""

from collections.abc import Sequence
from html import escape

from torch import Tensor

from kdcore.report.analysis import (
    Pair,
    class_accuracy,
    macro_f1,
    most_confused,
    predictions,
    probabilities,
)
from kdcore.report.columns import NOTHING
from kdcore.report.figures import matrix, parted
from kdcore.report.html import (
    Section,
    bar,
    details,
    figure,
    grid,
    paragraph,
    picture,
    rich_table,
    table,
)
from kdcore.report.study import TEMPERATURES, RowStudy, Sample, Study

DRAWN_CLASSES = 30
"""Up to so many classes a confusion matrix is drawn; of more its largest entries are listed."""

SMALL_MATRIX = 12
"""Up to so many classes the matrices of all rows are drawn."""

MATRICES = 6
"""So many matrices of more classes than that are drawn."""

SHOWN_CLASSES = 20
SHOWN_PAIRS = 12
SHOWN_LIKELY = 5
"""So many classes of an image's are shown, the likeliest first."""


def sections(study: Study) -> list[Section]:
    """Return this part's sections; none where nothing is known of samples."""
    if not study.said:
        return []
    found = [
        Section("classes", "Accuracy by class", _classes(study)),
        Section("confusion", "Confusions", _confusions(study)),
    ]
    if any(row.agreements for row in study.rows):
        found.append(
            Section("disagreement", "Where teacher and student disagree", _disagreement(study))
        )
    if any(row.worst for row in study.said):
        found.append(Section("worst", "The worst images", _worst(study)))
    if teachers := [row for row in study.said if row.role == "teacher" and row.examples]:
        found.append(
            Section("opinions", "What the teacher says of ten images", _opinions(study, teachers))
        )
    return found


def _counts(row: RowStudy) -> Tensor:
    assert row.counts is not None  # it is one of those that something is known of
    return row.counts


def _classes(study: Study) -> str:
    rows = study.said
    accuracies = [class_accuracy(_counts(row)) for row in rows]
    samples = _counts(rows[0]).sum(1).tolist()
    order, note = list(range(len(study.classes))), ""
    if len(order) > DRAWN_CLASSES:
        order.sort(key=lambda index: -_spread([each[index] for each in accuracies]))
        order = order[:SHOWN_CLASSES]
        note = (
            f"The {len(order)} of {len(study.classes):,} classes whose accuracy differs most "
            "between these models."
        )
    lines = [
        [
            escape(study.classes[index]),
            f"{samples[index] // _runs(rows[0]):,}",
            *(_accuracy(each[index]) for each in accuracies),
        ]
        for index in order
    ]
    means = [f"{macro_f1(_counts(row)):.1f}" for row in rows]
    lines.append(["macro-F1 of all classes", "", *means])
    names = ["class", "samples", *(escape(row.title) for row in rows)]
    told = (
        "Per cent of a class's test samples that were recognised, last weights, all seeds together."
    )
    return rich_table(names, lines, "Accuracy by class") + paragraph(
        f"{told} {note}".strip(), "note"
    )


def _runs(row: RowStudy) -> int:
    return max(len(row.calibration.errors), 1)


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def _accuracy(value: float | None) -> str:
    return bar(None, NOTHING) if value is None else bar(value / 100, f"{value:.1f}")


def _confusions(study: Study) -> str:
    many = len(study.classes) > SMALL_MATRIX
    drawn = study.said
    if len(study.classes) > DRAWN_CLASSES:
        drawn = []
    elif many:
        drawn = [row for row in study.said if row.role != "candidate"][:2]
        drawn += [row for row in study.said if row.role == "candidate"]
        drawn = drawn[:MATRICES]
    figures = [
        figure(
            matrix(_counts(row), study.classes, f"Confusion of {row.title}"),
            f"matrix-{study.rows.index(row)}",
            row.title,
            fixed=True,
        )
        for row in drawn
    ]
    parts = []
    if figures:
        few = 3 if not many else 1
        parts.append(grid(figures[:few], "wide" if many else "matrices"))
        if figures[few:]:
            parts.append(
                details(f"{len(figures) - few} more matrices", grid(figures[few:], "wide"))
            )
        parts.append(
            paragraph(
                "Test samples by their class and the class that was said, all seeds together; "
                "a cell is as strong as its share of the row.",
                "note",
            )
        )
    for place, row in enumerate(study.said):
        pairs = most_confused(_counts(row), SHOWN_PAIRS)
        if pairs:
            title = f"Most frequent confusions of {row.title}"
            lines = [_pair(study, pair) for pair in pairs]
            names = ["class", "was taken for", "times", "of the class (%)"]
            shown = not figures and place < 2
            parts.append(details(title, table(names, lines, title, {1}), shown=shown))
    return "".join(parts)


def _pair(study: Study, pair: Pair) -> list[str]:
    of, other = study.classes[pair.of], study.classes[pair.taken_for]
    return [of, other, f"{pair.count:,}", f"{pair.share:.1f}"]


def _disagreement(study: Study) -> str:
    parts = []
    teachers = list(dict.fromkeys(name for row in study.said for name in row.agreements))
    for number, name in enumerate(teachers):
        rows = [row for row in study.said if name in row.agreements]
        drawing = parted([(row.title, row.agreements[name]) for row in rows])
        told = f"Labelled test samples by who is right, {name} or the student, mean over seeds."
        parts.append(figure(drawing, f"parted-{number}", told))
        for row in rows:
            pairs = most_confused(row.parted[name], SHOWN_PAIRS)
            if not pairs:
                continue
            title = f"{row.title}: classes on which it and the {name} part"
            lines = [[(p := _pair(study, pair))[0], p[1], p[2]] for pair in pairs]
            names = [f"{name} says", "student says", "times"]
            parts.append(details(title, table(names, lines, title, {1})))
    return "".join(parts)


def _worst(study: Study) -> str:
    parts = [
        paragraph(
            "Labelled test samples with the highest cross-entropy, of each row's first seed: hard "
            "ones, and often wrong labels.",
            "note",
        )
    ]
    rows = [row for row in study.said if row.worst]
    shown = next((row for row in rows if row.role == "candidate"), rows[0])
    for row in rows:
        cards = [_card(study, sample) for sample in row.worst]
        title = f"{row.title}, seed {row.seed}"
        parts.append(details(title, grid(cards, "cards"), shown=row is shown))
    return "".join(parts)


def _card(study: Study, sample: Sample) -> str:
    own = probabilities(sample.logits[None])[0]
    said = int(own.argmax())
    names = study.classes
    lines = [
        f"<b>{escape(names[sample.target])}</b>, taken for <b>{escape(names[said])}</b> "
        f"({100 * float(own[said]):.0f} %)"
        if said != sample.target
        else f"<b>{escape(names[said])}</b>, right ({100 * float(own[said]):.0f} %)"
    ]
    lines += [f"{escape(who)}: {escape(names[index])}" for who, index in sample.teacher.items()]
    about = f"{sample.name}: {names[sample.target]}, taken for {names[said]}"
    told = "".join(f"<span>{line}</span>" for line in lines)
    named = f'<span class="name">{escape(sample.name)}</span>'
    shown = picture(sample.picture, about)
    return f'<figure class="card">{shown}<figcaption>{told}{named}</figcaption></figure>'


def _opinions(study: Study, teachers: Sequence[RowStudy]) -> str:
    parts = [
        paragraph(
            "Softmax of the teacher's logits divided by a temperature T, in per cent: the higher "
            "T is, the more a student hears of the classes that the teacher holds for possible."
        )
    ]
    for place, row in enumerate(teachers):
        cards = grid([_opinion(study, row, sample) for sample in row.examples], "opinions")
        if len(teachers) == 1:
            parts.append(cards)
        else:
            parts.append(details(f"{row.title}, seed {row.seed}", cards, shown=place == 0))
    return "".join(parts)


def _opinion(study: Study, row: RowStudy, sample: Sample) -> str:
    names = study.classes
    columns = [probabilities(sample.logits[None], t)[0] for t in TEMPERATURES]
    order = columns[0].argsort(descending=True, stable=True)[:SHOWN_LIKELY].tolist()
    if sample.target not in order:
        order[-1] = sample.target
    lines = []
    for index in order:
        name = escape(names[index])
        shown = f"<b>{name}</b>" if index == sample.target else name
        cells = [bar(p, f"{100 * p:.1f}") for p in (float(each[index]) for each in columns)]
        lines.append([shown, *cells])
    title = f"{row.title}: probabilities of {sample.name}"
    told = rich_table(["class", *(f"T = {t}" for t in TEMPERATURES)], lines, title)
    said = names[int(predictions(sample.logits[None]))]
    verdict = "right" if said == names[sample.target] else f"taken for {said}"
    text = f"{escape(names[sample.target])}, {escape(verdict)}"
    image = picture(sample.picture, f"{sample.name}: {names[sample.target]}")
    named = f'<span class="name">{escape(sample.name)}</span>'
    return f'<div class="opinion"><div class="seen">{image}<p>{text}{named}</p></div>{told}</div>'
