"""The libraries that files of a student are written and opened with: are they there, and silent."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from kdcore.errors import UserError, missing_extra

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_onnx(what: str) -> None:
    """Refuse what needs ONNX where its libraries are missing.

    Args:
        what: begins the error.

    Raises:
        UserError: names those that are missing, and how to install them.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(missing_extra(what, " and ".join(missing), "export"))


@contextmanager
def without_logs(level: int) -> Iterator[None]:
    """Keep libraries from logging, up to a level, what is told in one line."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
