"""What a figure was measured on: the machine and the versions of what can change it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import tenfold

PACKAGES = ("torch", "numpy", "scipy", "transformers", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Of tenfold, Python and the packages that can change a figure."""
    found = {"tenfold": tenfold.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> str:
    """Processor, cores this process may use, accelerators and operating system, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {cores} cores, {_accelerators()}{system}" + (
        f", {os.environ['WORLD_SIZE']} processes" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    )


def _accelerators() -> str:
    """Such as "1 x NVIDIA H100, ", or nothing."""
    import torch  # takes seconds; readers of runs do without

    if (kind := torch.accelerator.current_accelerator()) is None:
        return ""
    device = torch.get_device_module(kind)
    name = device.get_device_name() if hasattr(device, "get_device_name") else kind.type
    return f"{torch.accelerator.device_count()} x {name}, "


def _processor() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "processor not named"
