"""What computes: the processor, its cores, the accelerator and the versions, for people."""

import os
import platform
from pathlib import Path

import torch

from kdcore.fingerprint import machine_facts

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""What decides how fast a processor multiplies matrices, by the names that Linux has."""


def describe_machine() -> dict[str, object]:
    """Return the processor's name, its cores and instructions, the system and the Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = (said.get("flags") or said.get("Features") or "").split()
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return {
        "processor": said.get("model name") or platform.processor() or platform.machine(),
        "cores": len(usable) or os.cpu_count() or 1,
        "instructions": [name for name in INSTRUCTIONS if name in known],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def threads_text(count: int | None = None) -> str:
    """Say how many threads compute, or how many some are."""
    count = torch.get_num_threads() if count is None else count
    return f"{count} thread" if count == 1 else f"{count} threads"


def machine_line(device: torch.device) -> str:
    """Say in a line what computes: processor, cores, accelerator, versions."""
    here, facts = describe_machine(), machine_facts(device)
    cores = f"{here['cores']} cores of {here['processor']}"
    computes = (
        f"{cores} ({facts['processor']})"
        if device.type == "cpu"
        else f"{facts['processor']}, beside {cores}"
    )
    threads = threads_text(int(str(facts["threads"])))
    several = f" in each of {facts['processes']} processes" if "processes" in facts else ""
    return (
        f"{computes}, {threads}{several}; Python {here['python']}, PyTorch "
        f"{facts['torch']}, torchvision {facts['torchvision']}"
    )
