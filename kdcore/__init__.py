"""kdcore: distil any PyTorch teacher into any PyTorch student, with methods as plugins.

The names below are the public ones; everything else may change. They are imported when they are
first used, so that the command line starts without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdcore.adapters import AveragePool as AveragePool
    from kdcore.adapters import Flatten as Flatten
    from kdcore.adapters import Resize as Resize
    from kdcore.adapters import pool_to_narrower as pool_to_narrower
    from kdcore.adapters import regressor as regressor
    from kdcore.adapters import require_maps as require_maps
    from kdcore.api.compare import Comparison as Comparison
    from kdcore.api.compare import compare as compare
    from kdcore.api.compare import compare_file as compare_file
    from kdcore.api.distill import Result as Result
    from kdcore.api.distill import distill as distill
    from kdcore.contract import Adapters as Adapters
    from kdcore.contract import AuxiliaryLoss as AuxiliaryLoss
    from kdcore.contract import Features as Features
    from kdcore.contract import Setup as Setup
    from kdcore.contract import Shapes as Shapes
    from kdcore.contract import State as State
    from kdcore.contract import Taps as Taps
    from kdcore.distiller import Distiller as Distiller
    from kdcore.distiller import Losses as Losses
    from kdcore.errors import KdcoreError as KdcoreError
    from kdcore.errors import StrategyError as StrategyError
    from kdcore.hookspecs import hookimpl as hookimpl
    from kdcore.losses import divergence as divergence
    from kdcore.losses import require_classes as require_classes
    from kdcore.losses import require_same_classes as require_same_classes
    from kdcore.losses import require_same_shape as require_same_shape
    from kdcore.losses import squared_error as squared_error
    from kdcore.nested import TeacherInputs as TeacherInputs
    from kdcore.positions import Segmentation as Segmentation
    from kdcore.positions import Sequences as Sequences
    from kdcore.processes import gathered as gathered
    from kdcore.strategy import API_VERSION as API_VERSION
    from kdcore.strategy import Recommended as Recommended
    from kdcore.strategy import SeveralTaps as SeveralTaps
    from kdcore.strategy import Strategy as Strategy
    from kdcore.strategy import StrategySettings as StrategySettings
    from kdcore.strategy import Tap as Tap
    from kdcore.strategy import auto as auto
    from kdcore.tasks import Classification as Classification
    from kdcore.tasks import Task as Task
    from kdcore.teachers import MovingAverageTeacher as MovingAverageTeacher
    from kdcore.teachers import TeacherEnsemble as TeacherEnsemble
    from kdcore.tensorboard import TensorBoard as TensorBoard
    from kdcore.values import MultiLabel as MultiLabel
    from kdcore.values import NoTask as NoTask
    from kdcore.values import Regression as Regression
    from kdcore.weights import Moving as Moving

_HOMES = {
    "adapters": (
        "AveragePool",
        "Flatten",
        "Resize",
        "pool_to_narrower",
        "regressor",
        "require_maps",
    ),
    "api.distill": ("Result", "distill"),
    "api.compare": ("Comparison", "compare", "compare_file"),
    "contract": ("Adapters", "AuxiliaryLoss", "Features", "Setup", "Shapes", "State", "Taps"),
    "distiller": ("Distiller", "Losses"),
    "errors": ("KdcoreError", "StrategyError"),
    "hookspecs": ("hookimpl",),
    "losses": (
        "divergence",
        "require_classes",
        "require_same_classes",
        "require_same_shape",
        "squared_error",
    ),
    "nested": ("TeacherInputs",),
    "positions": ("Segmentation", "Sequences"),
    "processes": ("gathered",),
    "strategy": (
        "API_VERSION",
        "Recommended",
        "SeveralTaps",
        "Strategy",
        "StrategySettings",
        "Tap",
        "auto",
    ),
    "tasks": ("Classification", "Task"),
    "teachers": ("MovingAverageTeacher", "TeacherEnsemble"),
    "tensorboard": ("TensorBoard",),
    "values": ("MultiLabel", "NoTask", "Regression"),
    "weights": ("Moving",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdcore' has no attribute {name!r}")
    return getattr(import_module(f"kdcore.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
