import torch

from kdcore.nested import chunks, first_samples, in_precision, map_tensors, tensors_in


def test_tensors_are_found_in_sequences_and_mappings_in_order() -> None:
    one, two, three = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    assert [t.item() for t in tensors_in({"a": one, "b": (two, [three]), "c": "text"})] == [0, 1, 2]


def test_what_is_no_tensor_is_left_as_it_is() -> None:
    changed = map_tensors({"mask": torch.ones(2), "name": "x"}, lambda tensor: tensor + 1)
    assert changed["mask"].tolist() == [2, 2]
    assert changed["name"] == "x"


def test_the_first_samples_are_cut_from_every_tensor() -> None:
    cut = first_samples((torch.arange(5), {"x": torch.arange(5)}), 2)
    assert cut[0].tolist() == [0, 1]
    assert cut[1]["x"].tolist() == [0, 1]


def test_the_last_chunk_is_filled_up_with_its_first_sample() -> None:
    parts = chunks(torch.arange(5), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 3]]


def test_a_filled_chunk_keeps_its_memory_layout() -> None:
    images = torch.zeros(5, 3, 4, 4).to(memory_format=torch.channels_last)
    assert chunks(images, 3)[1].is_contiguous(memory_format=torch.channels_last)
    assert chunks(images.contiguous(), 3)[1].is_contiguous()


def test_numbers_take_a_precision_and_tokens_stay_as_they_are() -> None:
    tokens = torch.tensor([1, 2])
    assert in_precision(tokens, torch.float64) is tokens
    assert in_precision(torch.ones(2, dtype=torch.bfloat16), torch.float64).dtype == torch.float64
    exact = torch.ones(2)
    assert in_precision(exact, torch.float32) is exact
