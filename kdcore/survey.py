"""What is found out about one model before training: where its taps are, and what they yield."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kdcore.automatic import find
from kdcore.contract import Shapes, TapLike
from kdcore.errors import ModelError, TapError
from kdcore.nested import first_samples
from kdcore.probe import PROBE_SAMPLES, Probed, Trace, probe, trace
from kdcore.taps import TapAddress, check_exists

Roles = Mapping[str, tuple[TapAddress, ...]]


class EnsembleSurvey:
    """An ensemble of teachers: it has logits, and no place to tap.

    Args:
        members: what is found out about its members, by name.
        where: its name in errors.
    """

    def __init__(self, members: Mapping[str, "Survey"], where: str) -> None:
        self.members = dict(members)
        self.where = where
        self.automatic: dict[str, tuple[TapAddress, ...]] = {}

    def resolve(self, taps: Mapping[str, TapLike]) -> Roles:
        """Return no addresses.

        Raises:
            TapError: one was asked for.
        """
        for role, listed in taps.items():
            if listed:
                raise TapError(
                    f"{self.where} is an ensemble, which has logits and no place to tap (for "
                    f"{role!r}); bind the strategy to one of {', '.join(self.members)}"
                )
        return dict.fromkeys(taps, ())

    def shapes(self, roles: Roles) -> Shapes:
        """Return the shape of the logits, which is that of each member's.

        Raises:
            ModelError: a member has none, or others than the rest; or there is no sample.
        """
        found = {name: survey.shapes({}).logits for name, survey in self.members.items()}
        first, *others = found.values()
        if first is None or any(other != first for other in others):
            told = (f"{name} {list(s[1:]) if s else 'none'}" for name, s in found.items())
            raise ModelError(
                f"{self.where}: a mean needs logits of one shape of all members, and they have: "
                + ", ".join(told)
            )
        return Shapes(dict.fromkeys(roles, ()), first)


class Survey:
    """One model and the taps that a run's strategies ask of it.

    Ask for all taps first, then for shapes: the model runs once for the automatic taps, if any,
    and once for the shapes.

    Args:
        model: the model.
        sample: some input of it; a few samples of it are used.
        where: whose model it is, for errors.
        row_shape: makes the shape of its rows of that of its logits, as `Task.row_shape`.

    Attributes:
        wanted: the taps that were asked for, each once.
        automatic: the taps that were found, by kind.
    """

    def __init__(
        self,
        model: nn.Module,
        sample: Any,
        where: str,
        row_shape: Callable[[torch.Size], torch.Size] = torch.Size,
    ) -> None:
        self.model = model
        self.where = where
        self.wanted: dict[TapAddress, None] = {}
        self.automatic: dict[str, tuple[TapAddress, ...]] = {}
        self._sample = None if sample is None else first_samples(sample, PROBE_SAMPLES)
        self._row_shape = row_shape
        self._trace: Trace | None = None
        self._probed: Probed | None = None

    def resolve(self, taps: Mapping[str, TapLike]) -> Roles:
        """Return each role's addresses, the automatic ones found.

        Raises:
            TapError: an address is none, its module does not exist, or `auto` cannot tell.
            ModelError: something must be found and there is no sample.
        """
        assert self._probed is None, "taps are asked for before shapes"
        roles = {}
        for role, listed in taps.items():
            texts = (listed,) if isinstance(listed, str) else tuple(listed)
            roles[role] = tuple(tap for text in texts for tap in self._found(text))
        for addresses in roles.values():
            self.wanted.update(dict.fromkeys(addresses))
        return roles

    def _found(self, text: str) -> tuple[TapAddress, ...]:
        address = TapAddress.parse(text)
        if address.side != "auto":
            check_exists(address, self.model, self.where)
            return (address,)
        kind = address.module
        if kind not in self.automatic:
            if self._trace is None:
                self._trace = trace(self.model, self._given(), self.where)
            self.automatic[kind] = find(kind, self._trace)
        return self.automatic[kind]

    def shapes(self, roles: Roles) -> Shapes:
        """Return the shapes at each role's taps, and of the logits as rows.

        Raises:
            TapError: a tap did not run, ran more than once, or is no tensor.
            ModelError: there is no sample to run the model on.
        """
        probed = self._probe()
        return Shapes(
            {role: tuple(probed.shapes[tap] for tap in taps) for role, taps in roles.items()},
            None if probed.logits is None else self._row_shape(probed.logits),
        )

    @property
    def keep(self) -> frozenset[TapAddress]:
        """The taps that must be copied when they are taken."""
        return self._probed.keep if self._probed else frozenset()

    @property
    def class_count(self) -> int | None:
        """How many classes the logits have, where they were seen."""
        logits = self._probed.logits if self._probed else None
        return None if logits is None else self._row_shape(logits)[-1]

    def _probe(self) -> Probed:
        if self._probed is None:
            self._probed = probe(self.model, self._given(), tuple(self.wanted), self.where)
            self._trace = None  # its activations are no longer needed
        return self._probed

    def _given(self) -> Any:
        if self._sample is None:
            raise ModelError(
                f"{self.where}: strategies need a sample to see its shapes; "
                "pass sample_input=, a few samples as the model is given them"
            )
        return self._sample
