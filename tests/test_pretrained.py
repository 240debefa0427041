"""Models that come trained: heads that fit, are fitted, mapped, or of other classes."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import shufflenet_v2_x0_5

from kdcore.comparison import compare, rehearse
from kdcore.configfile import as_comparison, as_run, read_file
from kdcore.context import RunContext
from kdcore.data.preprocess import Preprocess
from kdcore.errors import ConfigError, ModelError, StrategyError
from kdcore.job import CONFIG, STUDENT_WEIGHTS
from kdcore.models.from_torchvision import TorchvisionOffer
from kdcore.models.tutorial import LightNN
from kdcore.run import run_student
from kdcore.teacher_runs import run_teacher
from tests.measured import accuracy_of
from tests.models.offered import offer_weights

NAME = "torchvision/shufflenet_v2_x0_5"
PRETRAINED = {"model": NAME, "pretrained": True, "image_size": 32}
HEAD = ("fc.weight", "fc.bias")


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    return offer_weights(tmp_path, monkeypatch)


class Desk:
    """A run in a folder, and what it printed."""

    def __init__(self, out: Path, teacher: Any = None, *, method: str = "cosine", **more: Any):
        self.console = Console(record=True, width=500, file=io.StringIO())
        tree = {
            "seed": 1,
            "device": "cpu",
            "data": {"limit": 60},
            "teacher": teacher or PRETRAINED,
            "student": {"model": "lightnn", "image_size": 8},
            "train": {"epochs": 1, "batch_size": 16},
            "strategies": [{"name": method}],
        }
        self.config = as_run({**tree, **more}, "test")
        self.context = RunContext(self.config, out, self.console)

    def rehearsed(self) -> list[str]:
        return rehearse(self.context, 1, self.context.new_teachers(1), self.config.plan)


def test_a_teacher_of_other_classes_serves_methods_on_features_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "runs")
    assert any("fc:input" in line for line in desk.rehearsed())
    teacher = run_teacher(desk.context, 1)
    assert (teacher.result.scores, teacher.result.outcome) == ({}, None)
    assert teacher.result.origin == f"pretrained {NAME}"
    assert "serves methods that compare features alone" in desk.console.export_text()
    result = run_student(desk.context, 1, "cosine", desk.config.plan, {"teacher": teacher})
    assert "pretrained = true" in (Path(result.folder) / CONFIG).read_text()


def test_a_method_that_wants_its_logits_says_how_it_would_have_some(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        Desk(tmp_path / "runs", method="logits").rehearsed()
    said = str(caught.value)
    assert "the head of teacher has 1000 classes of its own, the data has 10" in said
    assert "[teacher.fit]" in said
    assert "class_map" in said


def test_another_failure_of_a_method_is_not_put_down_to_classes(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "runs", strategies=[{"name": "cosine", "teacher_tap": "nowhere"}])
    with pytest.raises(Exception, match="nowhere") as caught:
        desk.rehearsed()
    assert "class_map" not in str(caught.value)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_a_head_is_fitted_before_it_teaches(
    tmp_path: Path, trained: dict[str, Tensor], mode: str
) -> None:
    fit = {"mode": mode, "epochs": 2, "lr": 0.01}
    desk = Desk(tmp_path / "runs", {**PRETRAINED, "fit": fit}, method="logits")
    teacher = run_teacher(desk.context, 1)
    assert len(teacher.result.epochs) == 2
    assert teacher.result.epochs[0]["lr"] == 0.01
    data = desk.context.data.teachers["teacher"].test
    assert teacher.result.accuracy == pytest.approx(accuracy_of(teacher.model, data))
    assert teacher.weights is not None
    own = load_file(teacher.weights)
    assert own["fc.weight"].shape == (10, 1024)
    same = {name for name in own if name not in HEAD and torch.equal(own[name], trained[name])}
    rest = own.keys() - set(HEAD)
    # Frozen layers keep their running statistics, too.
    assert same == rest if mode == "head" else not any("weight" in name for name in same)
    again = run_teacher(Desk(tmp_path / "runs", {**PRETRAINED, "fit": fit}).context, 1)
    assert again.result.kept


def test_a_run_with_a_fitted_teacher_is_repeated_by_its_own_file(tmp_path: Path) -> None:
    fit = {"mode": "head", "epochs": 1}
    desk = Desk(tmp_path / "runs", {**PRETRAINED, "fit": fit}, method="logits")
    teacher = run_teacher(desk.context, 1)
    first = run_student(desk.context, 1, "logits", desk.config.plan, {"teacher": teacher})
    again = as_run(read_file(Path(first.folder) / CONFIG), "again")
    assert again.teacher is not None
    assert (again.teacher.fit, again.teacher.pretrained) == (None, False)
    context = RunContext(again, tmp_path / "again", Console(quiet=True))
    taught = {"teacher": run_teacher(context, 1)}
    second = run_student(context, 1, "logits", again.plan, taught)
    one, two = (load_file(Path(each.folder) / STUDENT_WEIGHTS) for each in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_map_makes_logits_of_the_datas_classes_of_its_own(
    tmp_path: Path, trained: dict[str, Tensor]
) -> None:
    class_map: dict[str, Any] = {str(digit): 10 * digit + 1 for digit in range(9)}
    class_map["9"] = ["tench", 7]
    desk = Desk(tmp_path / "runs", {**PRETRAINED, "class_map": class_map}, method="logits")
    teacher = run_teacher(desk.context, 1)
    model = shufflenet_v2_x0_5(weights=None).eval()
    model.load_state_dict(trained)
    data = desk.context.data.teachers["teacher"].test
    batch = data.batch(torch.arange(len(data)))
    with torch.no_grad():
        logits = model(batch.inputs)
    columns = [logits[:, 10 * digit + 1] for digit in range(9)]
    # The first of ImageNet's classes is the tench.
    columns.append((logits[:, 0].exp() + logits[:, 7].exp()).log())
    assert teacher.result.accuracy == pytest.approx(
        100 * float((torch.stack(columns, 1).argmax(1) == batch.targets).float().mean())
    )


def test_a_student_may_begin_pretrained_in_every_run_alike(
    tmp_path: Path, trained: dict[str, Tensor]
) -> None:
    tree = {
        "seeds": [1],
        "data": {"limit": 60},
        "teacher": {"model": "lightnn", "image_size": 8},
        "student": PRETRAINED,
        "train": {"epochs": 1, "batch_size": 16, "lr": 1e-12},
        "candidates": [{"label": "logits", "strategies": [{"name": "logits"}]}],
    }
    config = as_comparison(tree, "test")
    context = RunContext(config, tmp_path / "runs", Console(quiet=True))
    runs = {each.name: each for each in compare(context, config)}
    for name in ("student", "logits"):
        assert runs[name].origin == f"pretrained {NAME}"
        own = load_file(Path(runs[name].folder) / STUDENT_WEIGHTS)
        assert torch.allclose(own["conv1.0.weight"], trained["conv1.0.weight"], atol=1e-9)
    assert runs["teacher"].origin == "random"


def test_weights_of_other_classes_are_fitted_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(4)
    old = LightNN(num_classes=4, image_size=8)
    file = tmp_path / "old.safetensors"
    save_file(old.state_dict(), file)
    teacher = {"model": "lightnn", "image_size": 8, "weights": str(file)}
    with pytest.raises(ModelError, match=r"is \[4, 256\], the model's is \[10, 256\]"):
        run_teacher(Desk(tmp_path / "runs", teacher).context, 1)
    teacher |= {"classes": 4}
    assert run_teacher(Desk(tmp_path / "runs", teacher).context, 1).result.scores == {}
    fitted = run_teacher(Desk(tmp_path / "runs", {**teacher, "fit": {"epochs": 1}}).context, 1)
    assert fitted.weights is not None
    own = load_file(fitted.weights)
    assert torch.equal(own["features.0.weight"], old.state_dict()["features.0.weight"])
    assert own["classifier.3.weight"].shape == (10, 256)


def test_pretrained_layers_get_the_images_that_they_were_trained_with(tmp_path: Path) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    said: dict[str, Any] = {"model": NAME, "pretrained": True}
    cases: list[tuple[dict[str, Any], Preprocess]] = [
        (said, Preprocess(224, *imagenet, 256)),
        ({**said, "image_size": 64}, Preprocess(64, *imagenet)),
        ({**said, "image_size": 64, "resize": 72}, Preprocess(64, *imagenet, 72)),
        ({**said, "image_size": 64, "mean": (0.5,) * 3}, Preprocess(64, (0.5,) * 3, imagenet[1])),
        ({"model": NAME}, Preprocess(32, *imagenet)),
    ]
    for teacher, expected in cases:
        data = Desk(tmp_path / "runs", teacher).context.data
        assert data.teachers["teacher"].preprocess == expected


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"model": "lightnn", "pretrained": True}, "comes without weights; only torchvision/NAME"),
        ({"model": NAME, "pretrained": True, "weights": "f"}, "pretrained would be ignored"),
        ({"model": NAME, "fit": {}}, "fit would be ignored: only a teacher that is pretrained"),
        ({"model": NAME, "class_map": {"a": 1}}, "class_map would be ignored"),
        ({**PRETRAINED, "fit": {}, "class_map": {"0": 1}}, "fit and class_map exclude"),
        ({**PRETRAINED, "classes": 3}, "classes would be ignored"),
        ({**PRETRAINED, "fit": {"mode": "tail"}}, "fit.mode"),
        ({**PRETRAINED, "class_map": {"0": True}}, "true is no class"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    tmp_path: Path, teacher: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Desk(tmp_path / "runs", teacher)


def test_a_middle_that_is_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"teacher.resize = 20 is less than the 32 pixels"):
        Desk(tmp_path / "runs", {**PRETRAINED, "resize": 20})


DETECTOR_LIKE = """
import torch
from torch import nn

class Ultra(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        logits = self.head(self.body(images).mean((2, 3)))
        return logits if self.training else ({"probabilities": logits.softmax(1)}, [logits])
"""


def test_logits_that_are_a_part_of_the_output_are_named_and_no_hook_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ultra_like.py").write_text(DETECTOR_LIKE)
    monkeypatch.syspath_prepend(tmp_path)
    student = {"model": "ultra_like:Ultra", "image_size": 8}
    with pytest.raises(ModelError, match=r"its output holds no logits.*set output"):
        Desk(tmp_path / "runs", {"model": "lightnn"}, student=student).context.new_student(1)
    desk = Desk(tmp_path / "runs", {"model": "lightnn"}, student={**student, "output": "1.0"})
    teacher = {"teacher": run_teacher(desk.context, 1)}
    result = run_student(desk.context, 1, "cosine", desk.config.plan, teacher)
    own = load_file(Path(result.folder) / STUDENT_WEIGHTS)
    assert set(own) == {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}
    student_again = desk.context.new_student(2)
    student_again.load_state_dict(own)
    measured = accuracy_of(student_again, desk.context.data.test)
    assert result.accuracy == pytest.approx(measured)


def test_the_same_classes_in_another_order_are_found_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Tensor]
) -> None:
    order = [str(digit) for digit in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    begin = TorchvisionOffer.__init__

    def ten(offer: TorchvisionOffer, *given: str) -> None:
        begin(offer, *given)
        offer.categories = tuple(order)

    def of_digits(offer: TorchvisionOffer) -> Any:
        model = offer.fresh(10)
        body = {name: each for name, each in trained.items() if name not in HEAD}
        model.load_state_dict({**model.state_dict(), **body})
        return model

    monkeypatch.setattr(TorchvisionOffer, "__init__", ten)
    monkeypatch.setattr(TorchvisionOffer, "pretrained", of_digits)
    context = Desk(tmp_path / "runs", PRETRAINED, method="logits").context
    model = context.new_teacher(1).eval()
    plain = TorchvisionOffer("shufflenet_v2_x0_5", "teacher").fresh(10).eval()
    plain.load_state_dict(model.state_dict())
    inputs = context.data.teachers["teacher"].test.batch(torch.arange(4)).inputs
    with torch.no_grad():
        expected = plain(inputs)[:, [order.index(str(digit)) for digit in range(10)]]
        assert torch.allclose(model(inputs), expected, atol=1e-5)
    assert context.built("teacher").head == "mapped"
    student = Desk(tmp_path / "other", {"model": "lightnn"}, student=PRETRAINED).context
    with pytest.raises(ModelError, match="in another order"):
        student.new_student(1)


def test_a_map_is_a_part_of_who_a_teacher_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of what a model says of a few inputs, a map that moves a rare class may change nothing.
    monkeypatch.setattr("kdcore.teacher_runs.fingerprint_of", lambda *_: "the same")
    identities = set()
    for first in (1, 2):
        class_map = {str(digit): 10 * digit + first for digit in range(10)}
        context = Desk(tmp_path / "runs", {**PRETRAINED, "class_map": class_map}).context
        identities.add(run_teacher(context, 1).identity.fingerprint)
    assert len(identities) == 2


def test_classes_that_are_taken_for_the_datas_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = TorchvisionOffer.__init__

    def ten(offer: TorchvisionOffer, *given: str) -> None:
        begin(offer, *given)
        offer.categories = tuple(f"kind {number}" for number in range(10))

    monkeypatch.setattr(TorchvisionOffer, "__init__", ten)
    monkeypatch.setattr(TorchvisionOffer, "pretrained", lambda offer: offer.fresh(10))
    desk = Desk(tmp_path / "runs", PRETRAINED)
    run_teacher(desk.context, 1)
    assert "its classes, kind 0 to kind 9, are taken for the data's" in desk.console.export_text()


def test_pretrained_weights_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Tensor]
) -> None:
    whole = TorchvisionOffer.pretrained

    def ruined(offer: TorchvisionOffer) -> Any:
        model = whole(offer)
        with torch.no_grad():
            next(model.parameters())[0] = torch.nan
        return model

    monkeypatch.setattr(TorchvisionOffer, "pretrained", ruined)
    assert "conv1.0.weight" in trained
    with pytest.raises(ModelError, match=r"'conv1\.0\.weight' is not finite"):
        Desk(tmp_path / "runs").context.new_teacher(1)
