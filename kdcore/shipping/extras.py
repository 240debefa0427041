"""The libraries that ONNX needs, which kdcore itself does not."""

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
