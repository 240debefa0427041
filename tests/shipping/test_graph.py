import pytest
import torch
from torch import nn

from kdcore.data.images import ArrayImages, LabelledImages
from kdcore.data.preprocess import Preprocess
from kdcore.data.source import ImageSource
from kdcore.errors import ModelError
from kdcore.models.tutorial import LightNN
from kdcore.shipping.graph import Inputs, inputs_at, shipped
from tests.shipping.models import IMAGE, Words, pixels


def test_the_graph_normalises_pixels_as_the_student_was_given_them() -> None:
    student = LightNN().eval()
    given = pixels(5)
    mean, std = (torch.tensor(each).double().view(3, 1, 1) for each in (IMAGE.mean, IMAGE.std))
    expected = student.double()(((given.double() / 255) - mean) / std)
    found = shipped(student.float(), IMAGE, ())(given)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_it_returns_the_logits_alone_of_what_a_student_returns() -> None:
    student = Words().eval()
    named = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.tensor([[1, 0]])}
    found = Inputs.of(named).run(shipped(student, None, list(named)))
    assert torch.equal(found, student(**named)["logits"])


def test_it_is_in_evaluation_mode() -> None:
    assert not shipped(nn.Dropout().train(), IMAGE, ()).training


def test_inputs_are_sorted_by_position_and_name() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert Inputs.of(one).by_name() == {"input_0": one}
    assert Inputs.of((one, two)).by_name() == {"input_0": one, "input_1": two}
    assert Inputs.of({"a": one, "b": two}).by_name() == {"a": one, "b": two}


@pytest.mark.parametrize("given", [{"a": [torch.zeros(1)]}, (torch.zeros(1), "text"), 3])
def test_inputs_that_are_no_tensors_are_refused(given: object) -> None:
    with pytest.raises(ModelError, match="a tensor, or a sequence or mapping of tensors"):
        Inputs.of(given)


def test_samples_are_read_as_pixels_at_the_students_size() -> None:
    large = pixels(4, 48)
    image = Preprocess(32, IMAGE.mean, IMAGE.std, resize=48)
    data = LabelledImages(ArrayImages(large), torch.zeros(4).long(), ("a",))
    given = inputs_at(ImageSource(data, image), torch.tensor([2, 0]), image)
    found = given.by_name()["image"]
    assert found.dtype == torch.uint8
    assert torch.equal(found, large[[2, 0], :, 8:40, 8:40])


def test_names_that_python_does_not_allow_are_refused() -> None:
    with pytest.raises(ModelError, match="not 'a-b'"):
        Inputs.of({"a-b": torch.zeros(1)})
