"""Distil inside Hugging Face's `Trainer`, with gradient accumulation that is exact.

    python docs/examples/hf_trainer.py student/

The models are small BERTs with fresh weights, and the texts are made up; put your own in `main`.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import kdcore

WORDS, LENGTH, CLASSES = 50, 12, 3


def bert(layers: int, width: int) -> Any:
    """Return a text classifier."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def texts(count: int) -> list[dict[str, Tensor]]:
    """Return samples as a tokenizer makes them; every third has no label (-100)."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        label = torch.randint(CLASSES, (), generator=generator)
        words = torch.randint(CLASSES, WORDS, (LENGTH,), generator=generator)
        words[index % LENGTH] = label  # one word tells
        samples.append(
            {
                "input_ids": words,
                "attention_mask": torch.ones_like(words),
                "labels": torch.tensor(-100) if index % 3 == 0 else label,
            }
        )
    return samples


class Advance(TrainerCallback):  # type: ignore[misc]  # has no types that are checked
    """Tells the distiller of each optimizer step."""

    def __init__(self, distiller: kdcore.Distiller) -> None:
        self.distiller = distiller

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Say which epoch it is, for weights and strategies that depend on it."""
        self.distiller.epoch = int(state.epoch)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Let strategies' memory and step count follow; `Trainer` calls it after the step."""
        self.distiller.advance()


class DistillationTrainer(Trainer):  # type: ignore[misc]  # likewise
    """A `Trainer` whose model is a `kdcore.Distiller`.

    The model's parameters are those of student and adapters, so that `Trainer`'s own optimizer,
    schedule, clipping and accumulation serve.
    """

    def __init__(self, distiller: kdcore.Distiller, **arguments: Any) -> None:
        super().__init__(model=distiller, callbacks=[Advance(distiller)], **arguments)
        self.distiller = distiller
        # Losses are divided by what the whole step holds: `Trainer` must not divide them again.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the micro-batches of one optimizer step, and by what their means are divided."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        task = self.distiller.task
        parts = [task.count(len(each["labels"]), each["labels"].to(device)) for each in batches]
        return batches, reduce(add, parts) if parts else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the total loss of one micro-batch."""
        features = {key: value for key, value in inputs.items() if key != "labels"}
        losses = model(features, inputs["labels"], counts=num_items_in_batch)
        return (losses.total, {"logits": losses.logits}) if return_outputs else losses.total


def distil(
    teacher: nn.Module,
    student: nn.Module,
    samples: list[dict[str, Tensor]],
    *,
    micro_batch: int = 16,
    accumulate: int = 1,
    epochs: int = 2,
) -> None:
    """Train the student in place.

    Args:
        teacher: the model to learn from; it stays as it is.
        student: the model to train.
        samples: what a data set yields.
        micro_batch: samples in memory at a time.
        accumulate: micro-batches of an optimizer step; ``micro_batch * accumulate`` decides what
            is learned, not how it is cut.
        epochs: passes over the samples.
    """
    example = {key: torch.stack([each[key] for each in samples[:2]]) for key in samples[0]}
    example.pop("labels")
    with (
        tempfile.TemporaryDirectory() as scratch,
        kdcore.Distiller(
            teacher, student, ["logits", "fitnets"], sample_input=example
        ) as distiller,
    ):
        arguments = TrainingArguments(
            scratch,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulate,
            num_train_epochs=epochs,
            learning_rate=1e-2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,  # `Trainer` would keep what a distiller's forward names
        )
        DistillationTrainer(distiller, args=arguments, train_dataset=samples).train()


def main(folder: Path) -> None:
    """Distil, and save the student as Hugging Face does."""
    torch.manual_seed(0)
    teacher, student = bert(2, 32), bert(1, 16)  # a real teacher was trained before
    distil(teacher, student, texts(64), micro_batch=8, accumulate=2)
    student.save_pretrained(folder)
    BertForSequenceClassification.from_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
