import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcore.card import CARD, Card
from kdcore.errors import ModelError, UserError
from kdcore.shipping.student import FinishedRun, load_student
from tests.shipping.photos import CLASSES, SIZE


def test_a_runs_student_comes_back_with_its_card_and_weights(run: Path) -> None:
    student, card = load_student(run)
    saved = load_file(run / "student.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in student.state_dict().items())
    assert not student.training
    assert card == Card.load(run / CARD)
    assert card.classes == CLASSES
    assert card.image is not None
    assert (card.image.size, card.image.resize) == (SIZE, 20)


def test_the_best_weights_are_taken_where_asked_for(run: Path) -> None:
    student, card = load_student(run, best=True)
    saved = load_file(run / "best.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in student.state_dict().items())
    assert card.weights == "best"
    result = json.loads((run / "result.json").read_text())
    assert card.scores == result["best_scores"]


def test_its_data_are_prepared_again_as_they_were(run: Path) -> None:
    data = FinishedRun.of(run).data
    assert len(data.test) == 120
    assert data.validation is not None
    assert len(data.student) + len(data.validation) == 72
    assert data.student_preprocess == load_student(run)[1].image


def test_data_that_lie_elsewhere_now_are_found_where_one_says(own_run: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        _ = FinishedRun.of(own_run, own_run / "nowhere").data


def test_a_run_without_a_card_is_described_from_its_settings(own_run: Path) -> None:
    expected = Card.load(own_run / CARD)
    (own_run / CARD).unlink()
    file = own_run / "student.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    _vouch_for(own_run)
    student, card = load_student(own_run)
    assert card == expected
    assert torch.equal(
        student.state_dict()["classifier.3.bias"], load_file(file)["classifier.3.bias"]
    )


def test_weights_that_were_changed_after_the_run_are_refused(own_run: Path) -> None:
    file = own_run / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="is not what the run wrote"):
        load_student(own_run)
    _vouch_for(own_run)  # without the hash nobody would notice
    load_student(own_run)


def test_a_damaged_card_is_refused(own_run: Path) -> None:
    file = own_run / "student.safetensors"
    metadata = {**Card.load(own_run / CARD).metadata(), "image": "{}"}
    save_file(load_file(file), file, metadata=metadata)
    _vouch_for(own_run)
    with pytest.raises(ModelError, match="its card is damaged"):
        load_student(own_run)


def test_missing_files_are_told_in_one_line(own_run: Path) -> None:
    (own_run / "best.safetensors").unlink()
    with pytest.raises(UserError, match="held out nothing to choose the best on"):
        load_student(own_run, best=True)
    (own_run / "student.safetensors").unlink()
    with pytest.raises(UserError, match="does not exist: copy it again"):
        load_student(own_run)
    (own_run / "result.json").unlink()
    with pytest.raises(UserError, match="this run was not finished: kdcore run --resume"):
        load_student(own_run)
    with pytest.raises(UserError, match="no folder of a run"):
        load_student(own_run / "nowhere")


def test_folders_of_teachers_and_comparisons_are_told_apart(tmp_path: Path, own_run: Path) -> None:
    begun = json.loads((own_run / "job.json").read_text())
    (own_run / "job.json").write_text(json.dumps({**begun, "kind": "teacher"}))
    with pytest.raises(UserError, match="is of a teacher"):
        load_student(own_run)
    (tmp_path / "comparison.toml").write_text("")
    with pytest.raises(UserError, match=f"one of the runs in it, such as {own_run}"):
        load_student(tmp_path)


def _vouch_for(run: Path) -> None:
    """Write the hash of the weights as they are into the run's result."""
    import hashlib

    result = json.loads((run / "result.json").read_text())
    for name in result["weights"]:
        result["weights"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / "result.json").write_text(json.dumps(result))
