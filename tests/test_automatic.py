"""What `auto` finds on models that nobody prepared.

Widths, sides and token counts are those of the architectures' papers. The networks run on
PyTorch's meta device, which knows shapes and no values; three run on weights, as a control.
"""

import functools
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.automatic import find
from kdcore.errors import TapError
from kdcore.models.tutorial import DeepNN, LightNN
from kdcore.probe import Trace, probe, trace


def _traced(model: nn.Module, *shape: int, device: str = "cpu") -> Trace:
    return trace(model, torch.zeros(2, *shape, device=device), "student")


@functools.cache
def _network(name: str, side: int = 64, device: str = "meta") -> tuple[nn.Module, Trace]:
    with torch.device(device):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model, _traced(model, 3, side, side, device=device)


def _shapes(model: nn.Module, seen: Trace, kind: str) -> list[list[int]]:
    """Return the shapes, without the batch, that taps of one kind give on their own."""
    found = find(kind, seen)
    probed = probe(model, seen.inputs[0], found, "student")
    return [list(probed.shapes[address][1:]) for address in found]


def _found(kind: str, seen: Trace) -> list[str]:
    return [str(address) for address in find(kind, seen)]


STAGES = {  # channels and side of the last map of each resolution, of images of 64 pixels
    "resnet18": [[64, 32], [64, 16], [128, 8], [256, 4], [512, 2]],
    "resnet50": [[64, 32], [256, 16], [512, 8], [1024, 4], [2048, 2]],
    "mobilenet_v3_small": [[16, 32], [16, 16], [24, 8], [48, 4], [576, 2]],
    "efficientnet_b0": [[16, 32], [24, 16], [40, 8], [112, 4], [1280, 2]],
    "convnext_tiny": [[96, 16], [192, 8], [384, 4], [768, 2]],
    "densenet121": [[64, 32], [256, 16], [512, 8], [1024, 4], [1024, 2]],
    "vgg11": [[64, 64], [128, 32], [256, 16], [512, 8], [512, 4], [512, 2]],
}
EMBEDDINGS = {
    "resnet18": ("fc:input", [512]),
    "resnet50": ("fc:input", [2048]),
    "mobilenet_v3_small": ("classifier:input", [576]),
    "efficientnet_b0": ("classifier:input", [1280]),
    "convnext_tiny": ("classifier:input", [768, 1, 1]),
    "densenet121": ("classifier:input", [1024]),
    "vgg11": ("classifier:input", [512 * 7 * 7]),
}


class TestNetworks:
    @pytest.mark.parametrize("name", STAGES)
    def test_stages_are_the_last_map_of_each_resolution(self, name: str) -> None:
        expected = [[channels, side, side] for channels, side in STAGES[name]]
        assert _shapes(*_network(name), "stages") == expected

    @pytest.mark.parametrize("name", STAGES)
    def test_the_feature_map_is_the_last_stage(self, name: str) -> None:
        seen = _network(name)[1]
        assert find("feature_map", seen) == find("stages", seen)[-1:]

    @pytest.mark.parametrize("name", EMBEDDINGS)
    def test_the_embedding_is_what_the_head_is_given(self, name: str) -> None:
        address, shape = EMBEDDINGS[name]
        assert _found("embedding", _network(name)[1]) == [address]
        assert _shapes(*_network(name), "embedding") == [shape]

    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
    def test_weights_make_no_difference(self, name: str) -> None:
        weighed, shaped = _network(name, device="cpu")[1], _network(name)[1]
        for kind in ("embedding", "feature_map", "stages"):
            assert find(kind, weighed) == find(kind, shaped)

    def test_stages_of_a_residual_network_end_with_its_layers(self) -> None:
        found = _found("stages", _network("resnet18")[1])
        assert found[1:] == ["layer1", "layer2", "layer3", "layer4"]

    def test_a_vision_transformer_has_one_sequence_of_tokens(self) -> None:
        model, seen = _network("vit_b_16", side=224)
        tokens = (224 // 16) ** 2 + 1
        assert _shapes(model, seen, "stages") == [[tokens, 768]]
        assert _shapes(model, seen, "feature_map") == [[tokens, 768]]
        assert _found("embedding", seen) == ["heads:input"]
        assert _shapes(model, seen, "embedding") == [[768]]

    @pytest.mark.parametrize("kind", ["embedding", "feature_map", "stages"])
    def test_where_a_pass_does_not_tell_candidates_are_listed_with_shapes(self, kind: str) -> None:
        # SqueezeNet classifies by a convolution; its last map has one channel a class.
        seen = _network("squeezenet1_1")[1]
        setting = "student_taps" if kind == "stages" else "student_tap"
        shown = kind.replace("_", " ")
        with pytest.raises(
            TapError, match=f"^student: cannot tell which tap is its {shown}; "
        ) as e:
            find(kind, seen)
        assert f"set {setting} to one of these outputs, or to MODULE:input: " in str(e.value)
        assert "features.11 [2, 512, 3, 3], " in str(e.value)
        assert "classifier.2 [2, 1000, 3, 3], " in str(e.value)


class TestTutorial:
    @pytest.mark.parametrize(("model", "channels"), [(DeepNN(), 32), (LightNN(), 16)])
    def test_its_two_networks(self, model: nn.Module, channels: int) -> None:
        seen = _traced(model, 3, 32, 32)
        assert _found("feature_map", seen) == ["features"]
        assert _shapes(model, seen, "feature_map") == [[channels, 8, 8]]
        assert _found("embedding", seen) == ["classifier:input"]
        assert _shapes(model, seen, "embedding") == [[channels * 64]]

    def test_the_teachers_stages(self) -> None:
        model = DeepNN()
        seen = _traced(model, 3, 32, 32)
        assert _shapes(model, seen, "stages") == [[64, 32, 32], [32, 16, 16], [32, 8, 8]]


class Around(nn.Module):
    """A model around another: it normalises, and turns logits into what a function does."""

    def __init__(self, model: nn.Module, normalise: bool = False, soften: bool = False) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self.soften = soften

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x - 0.5) / 0.25 if self.normalise else x)
        return F.log_softmax(logits, 1) if self.soften else logits


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))


class TestWrappers:
    @pytest.mark.parametrize("normalise", [True, False])
    def test_a_wrapped_model_has_the_taps_that_it_had(self, normalise: bool) -> None:
        bare, wrapped = LightNN(), Around(LightNN(), normalise)
        for kind in ("embedding", "feature_map", "stages"):
            expected = [f"model.{address}" for address in _found(kind, _traced(bare, 3, 32, 32))]
            assert _found(kind, _traced(wrapped, 3, 32, 32)) == expected

    @pytest.mark.parametrize("normalise", [True, False])
    def test_what_a_model_is_given_is_no_embedding_though_it_was_normalised(
        self, normalise: bool
    ) -> None:
        assert _found("embedding", _traced(Around(_mlp(), normalise), 3, 4, 4)) == ["model.3:input"]

    def test_behind_a_function_on_the_logits_there_is_no_head_but_there_are_maps(self) -> None:
        seen = _traced(Around(LightNN(), soften=True), 3, 32, 32)
        with pytest.raises(TapError, match=r"its embedding.* model \[2, 10\]$"):
            find("embedding", seen)
        assert _found("feature_map", seen) == ["model.features"]

    def test_maps_that_could_be_the_classes_are_not_taken_for_features(self) -> None:
        seen = _traced(Around(LightNN(num_classes=16), soften=True), 3, 32, 32)
        with pytest.raises(TapError, match="its feature map"):
            find("feature_map", seen)


class Turn(nn.Module):
    """Moves the dimensions behind the batch."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.order)


class Merge(nn.Module):
    """Halves the sides of maps with channels last, and doubles their channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(channels * 4, channels * 2)

    def forward(self, x: Tensor) -> Tensor:
        halves = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        merged: Tensor = self.reduction(torch.cat(halves, 3))
        return merged


def _turned(back: bool = False, turned_at_the_end: bool = True) -> nn.Sequential:
    """Build a network of three stages with channels last, as Swin has them.

    Args:
        back: whether each stage returns channels first, as those of ConvNeXt do.
        turned_at_the_end: whether its last map has channels first.
    """
    stages = [nn.Sequential(nn.Conv2d(3, 6, 2, 2), Turn(2, 3, 1), nn.LayerNorm(6))]
    for channels in (6, 12):
        stages.append(nn.Sequential(nn.Linear(channels, channels), nn.GELU()))
        stages.append(nn.Sequential(Merge(channels)))
    stages.append(nn.Sequential(nn.Linear(24, 24), nn.GELU()))
    if back:
        stages[1:] = [nn.Sequential(Turn(2, 3, 1), stage, Turn(3, 1, 2)) for stage in stages[1:]]
        stages[0] = stages[0].append(Turn(3, 1, 2))
    body = nn.Sequential(*stages)
    last = body if back or not turned_at_the_end else body.append(Turn(3, 1, 2))
    return nn.Sequential(OrderedDict(body=last, flat=nn.Flatten(), head=nn.LazyLinear(10)))


class TestChannelsLast:
    @pytest.mark.parametrize("sides", [(32, 32), (48, 32)])
    def test_stages_that_have_them_are_not_told(self, sides: tuple[int, int]) -> None:
        seen = _traced(_turned(), 3, *sides)
        first, last = [side // 2 for side in sides], [side // 8 for side in sides]
        with pytest.raises(TapError, match=r"^student: cannot tell which tap is its stages; ") as e:
            find("stages", seen)
        assert f"; body.1 {[2, *first, 6]} has its channels last; set student_taps" in str(e.value)
        shown = str(e.value).partition("MODULE:input: ")[2]
        assert shown == f"body.0.0 {[2, 6, *first]}, body {[2, 24, *last]}"

    def test_the_last_map_is_told_where_it_has_them_first(self) -> None:
        seen = _traced(_turned(), 3, 32, 32)
        assert _found("feature_map", seen) == ["body"]
        assert _found("embedding", seen) == ["head:input"]

    def test_the_last_map_is_not_told_where_it_has_them_last(self) -> None:
        seen = _traced(_turned(turned_at_the_end=False), 3, 32, 32)
        with pytest.raises(TapError, match=r"body \[2, 4, 4, 24\] has its channels last; set "):
            find("feature_map", seen)
        with pytest.raises(TapError, match="cannot tell which tap is its stages"):
            find("stages", seen)
        assert _found("embedding", seen) == ["head:input"]

    @pytest.mark.parametrize("sides", [(32, 32), (48, 32)])
    def test_blocks_may_have_them_inside(self, sides: tuple[int, int]) -> None:
        model = _turned(back=True)
        expected = [[6 * n, sides[0] // 2 // n, sides[1] // 2 // n] for n in (1, 2, 4)]
        assert _shapes(model, _traced(model, 3, *sides), "stages") == expected

    def test_a_pooled_vector_is_no_map_that_has_them(self) -> None:
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), Turn(2, 3, 1))
        body = [nn.Conv2d(3, 8, 2, 2), nn.ReLU(), pool, nn.Flatten()]
        seen = _traced(nn.Sequential(*body, nn.Linear(8, 10)), 3, 16, 16)
        assert _found("feature_map", seen) == ["1"]

    def test_strides_that_differ_by_direction_are_no_sign_of_them(self) -> None:
        strides = [nn.Conv2d(3, 8, 3, (2, 1), 1), nn.Conv2d(8, 8, 3, (2, 1), 1)]
        model = nn.Sequential(*strides, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        assert _shapes(model, _traced(model, 3, 32, 24), "stages") == [[8, 16, 24], [8, 8, 24]]


class Windows(nn.Module):
    """Attends in windows of 2x2, of which a map has as many as ``[side / 2, side / 2]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cut, self.swap = nn.Identity(), nn.Identity()
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, side, _ = x.shape
        half = side // 2
        windows = x.reshape(batch, channels, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1)
        cut = self.mix(self.cut(windows.reshape(batch, half * half, 4, channels)))
        swapped = self.swap(cut.transpose(1, 2))
        whole = swapped.reshape(batch, 2, 2, half, half, channels).permute(0, 5, 3, 1, 4, 2)
        attended: Tensor = x + whole.reshape(x.shape)
        return attended


class TestWindows:
    @pytest.mark.parametrize(
        ("channels", "nested", "name", "shape", "stages"),
        [
            (16, False, "swap", [4, 16, 16], ["body.1", "body"]),
            (4, True, "mix", [16, 4, 4], ["body.0", "body"]),
        ],
    )
    def test_windows_that_are_as_square_as_a_map_are_no_stage(
        self, channels: int, nested: bool, name: str, shape: list[int], stages: list[str]
    ) -> None:
        stem, down = nn.Conv2d(3, channels, 2, 2), nn.Conv2d(channels, 32, 4, 4)
        attend = Windows(channels)
        body = [stem, nn.Sequential(attend, down)] if nested else [stem, attend, down]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
        model = nn.Sequential(OrderedDict(body=nn.Sequential(*body), head=nn.Sequential(*head)))
        seen = _traced(model, 3, 16, 16)
        (windows,) = (call for call in seen.calls if call.name.endswith(f".{name}"))
        assert windows.output is not None
        assert list(windows.output.shape) == [2, *shape]
        assert _found("stages", seen) == stages
        assert _shapes(model, seen, "stages") == [[channels, 8, 8], [32, 2, 2]]

    def test_what_a_block_is_given_and_does_not_return_may_be_one(self) -> None:
        block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        model = nn.Sequential(block, nn.Flatten(), nn.Linear(8 * 64, 10))
        assert _found("stages", _traced(model, 3, 16, 16)) == ["0.1", "0"]

    def test_sides_may_fall_by_less_than_half(self) -> None:
        # Convolutions without padding, as LeNet has them: 12, halved 6, 4.
        body = [nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 16, 10))
        assert _found("stages", _traced(model, 1, 16, 16)) == ["0", "1", "3"]


class TestSmallModels:
    def test_an_mlp_has_an_embedding_and_no_map(self) -> None:
        seen = _traced(_mlp(), 3, 4, 4)
        assert _found("embedding", seen) == ["3:input"]
        for kind in ("feature_map", "stages"):
            with pytest.raises(TapError, match=r"2 \[2, 32\], 3 \[2, 10\]$"):
                find(kind, seen)

    @pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Softmax(1)])
    def test_what_follows_the_logits_is_no_head(self, last: nn.Module) -> None:
        seen = _traced(_mlp().append(last), 3, 4, 4)
        with pytest.raises(TapError, match=r"its embedding.*3 \[2, 10\], 4 \[2, 10\]$"):
            find("embedding", seen)

    def test_what_returns_the_logits_as_they_are_hides_no_head(self) -> None:
        assert _found("embedding", _traced(_mlp().append(nn.Identity()), 3, 4, 4)) == ["3:input"]

    def test_a_head_may_end_with_what_has_no_weights(self) -> None:
        head = nn.Sequential(nn.Linear(32, 10), nn.LogSoftmax(1))
        model = nn.Sequential(OrderedDict(body=_mlp()[:3], head=head))
        assert _found("embedding", _traced(model, 3, 4, 4)) == ["head:input"]

    def test_of_a_linear_model_the_pixels_are_no_embedding(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
        with pytest.raises(TapError, match="its embedding"):
            find("embedding", _traced(model, 3, 4, 4))

    def test_flattening_pooled_class_maps_is_no_head(self) -> None:
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1), *pool)
        for kind in ("embedding", "feature_map"):
            with pytest.raises(TapError, match="cannot tell"):
                find(kind, _traced(model, 3, 8, 8))

    def test_what_extracts_features_itself_is_no_head_though_it_returns_the_logits(self) -> None:
        trunk = [nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)]
        model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), trunk=nn.Sequential(*trunk)))
        assert _found("embedding", _traced(model, 3, 8, 8)) == ["trunk.3:input"]

    def test_what_is_given_the_models_input_is_no_head_though_others_ran_before(self) -> None:
        class Beside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gate = nn.Linear(48, 1)
                self.mlp = _mlp()[1:]

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"gate": self.gate(x), "logits": self.mlp(x)}

        assert _found("embedding", _traced(Beside(), 48)) == ["mlp.3:input"]

    def test_a_body_whose_layers_run_twice_is_still_a_body(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(48, 48)
                self.fc = nn.Linear(48, 10)

            def forward(self, x: Tensor) -> Tensor:
                hidden = self.layer(self.layer(x.flatten(1)))
                logits: Tensor = self.fc(hidden)
                return logits

        assert _found("embedding", _traced(Twice(), 3, 4, 4)) == ["fc:input"]

    def test_global_pooling_is_behind_the_feature_map(self) -> None:
        body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten()]
        seen = _traced(nn.Sequential(*body, nn.Linear(8, 10)), 3, 8, 8)
        assert _found("feature_map", seen) == ["1"]
        assert _found("embedding", seen) == ["4:input"]

    def test_a_quantized_head_keeps_its_weights_elsewhere_and_is_a_head(self) -> None:
        class Packed(nn.Module):
            """A layer whose weights are no parameters, as those of quantized modules are."""

            def __init__(self) -> None:
                super().__init__()
                self.packed = torch.zeros(10, 32)

            def get_extra_state(self) -> Tensor:
                return self.packed

            def forward(self, x: Tensor) -> Tensor:
                return x @ self.packed.T

        seen = _traced(nn.Sequential(*_mlp()[:3], Packed()), 3, 4, 4)
        assert _found("embedding", seen) == ["3:input"]

    def test_a_model_without_logits_cannot_tell_its_embedding(self) -> None:
        class Scores(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = _mlp()

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"scores": self.model(x)}

        with pytest.raises(TapError, match="its embedding"):
            find("embedding", _traced(Scores(), 3, 4, 4))

    def test_the_error_names_the_setting_of_the_model_that_it_is_about(self) -> None:
        seen = trace(_mlp(), torch.zeros(2, 3, 4, 4), "teacher")
        with pytest.raises(TapError, match=r"^teacher: .*; set teacher_tap to "):
            find("feature_map", seen)


def test_logits_that_are_a_map_are_not_taken_for_the_last_feature_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with pytest.raises(TapError, match=r"cannot tell which tap is its feature map.*1 \[2, 6, 8, 8"):
        find("feature_map", _traced(model, 3, 8, 8))
