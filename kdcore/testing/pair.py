"""Runs something in two processes that train together, where the system can fork.

A server is started once, which has imported PyTorch and computed nothing; it forks two processes
for each request. The process that asks may have computed gradients, after which PyTorch refuses to
compute any in its forks.
"""

import atexit
import importlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from kdcore.imports import files_of, run_file
from kdcore.testing.case import Case
from kdcore.testing.check import NotApplicableError

TIMEOUT = timedelta(seconds=60)
"""How long one process waits for the other."""

_SERVER = """
import os
import sys
import kdcore.testing  # what is imported before forking is imported once
from kdcore.testing.pair import serve
answers = os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a strategy prints is no answer
serve(sys.stdin.buffer, answers)
"""

_server: "subprocess.Popen[bytes] | None" = None


class OtherProcessError(Exception):
    """A process failed; the message is its own."""


def in_two_processes(work: Callable[[Case], Any], case: Case) -> list[Any]:
    """Return what a function gives in each of two processes that have joined.

    Args:
        work: a function of a module; what it returns can be saved with PyTorch.
        case: what it is given; its strategy and models must be found by their names.

    Raises:
        NotApplicableError: the system cannot fork, or another process could not find the case.
        OtherProcessError: one of the processes failed.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin":
        raise NotApplicableError("it needs a system whose processes can be forked, such as Linux")
    try:
        case = replace(case, settings=dict(case.settings))
        files = files_of(case.strategy.__module__)
        # What is tried can be unpacked once the path and the files are there.
        told = sys.path, files, work.__module__, work.__qualname__, pickle.dumps(case)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotApplicableError(
            f"another process could not import what is tried: {error}"
        ) from None
    results = []
    for answer in _answers(pickle.dumps(told)):
        if not answer:
            raise OtherProcessError("one of two processes ended without a word")
        failed, result = torch.load(io.BytesIO(answer), weights_only=True)
        if failed == "not found":
            raise NotApplicableError(f"another process could not import what is tried: {result}")
        if failed:
            raise OtherProcessError(result)
        results.append(result)
    return results


def _answers(asked: bytes) -> list[bytes]:
    """Send a request to the server and return the answers of both processes, in their order."""
    global _server
    server = _started()
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        _send(server.stdin, asked)
        return [_received(server.stdout) for _ in range(2)]
    except BaseException:
        # What is still to come would be taken for the answers to the next request.
        server.kill()
        server.wait()
        _server = None
        raise


def _started() -> "subprocess.Popen[bytes]":
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        atexit.register(_stop)
    return _server


def _stop() -> None:
    if _server is not None:
        assert _server.stdin is not None
        assert _server.stdout is not None
        with suppress(OSError, subprocess.TimeoutExpired):
            _server.stdin.close()  # at which it ends
            _server.wait(timeout=10)
        _server.kill()
        _server.wait()
        _server.stdout.close()


def _send(stream: IO[bytes], told: bytes) -> None:
    stream.write(len(told).to_bytes(8, "big") + told)
    stream.flush()


def _received(stream: IO[bytes]) -> bytes:
    size = stream.read(8)
    told = stream.read(int.from_bytes(size, "big"))
    if len(size) < 8 or len(told) < int.from_bytes(size, "big"):
        raise OtherProcessError("what starts processes in pairs has ended")
    return told


def serve(asked: IO[bytes], told: IO[bytes]) -> None:
    """Answer requests until there are none: two answers each, in the order of the ranks."""
    while len(size := asked.read(8)) == 8:
        request = asked.read(int.from_bytes(size, "big"))
        with tempfile.TemporaryDirectory() as folder:
            pipes = [_forked(request, Path(folder) / "store", rank) for rank in range(2)]
            for process, pipe in pipes:
                with os.fdopen(pipe, "rb") as stream:
                    _send(told, stream.read())
                os.waitpid(process, 0)


def _forked(request: bytes, store: Path, rank: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        with os.fdopen(writing, "wb") as stream:
            stream.write(_answer(request, store, rank))
    finally:
        os._exit(0)  # what the server had begun is the server's to end


def _answer(request: bytes, store: Path, rank: int) -> bytes:
    answer: tuple[str, Any]
    try:
        torch.set_num_threads(1)
        try:
            path, files, module, name, rest = pickle.loads(request)
            sys.path[:] = path
            for each, file in files.items():
                run_file(each, Path(file))
            case = pickle.loads(rest)
            work = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            answer = "not found", str(error)
        else:
            shared = dist.FileStore(str(store), 2)  # type: ignore[attr-defined]
            dist.init_process_group("gloo", store=shared, rank=rank, world_size=2, timeout=TIMEOUT)
            answer = "", work(case)
    except BaseException as error:
        answer = "failed", f"{type(error).__name__}: {error}".partition("\n")[0]
    file = io.BytesIO()
    torch.save(answer, file)
    return file.getvalue()
