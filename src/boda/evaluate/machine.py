"""The machine that something is measured on: its clock, its memory and how fast that is read."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

READ_BYTES, READS = 1 << 30, 5
MEMORY = {
    "cuda": "most memory that torch had allocated on the device while the row was measured, above what it had before the model was loaded",
    "cpu": "the process's largest resident memory (VmHWM, set back before each row) while the row was measured, above what it was before "
    "the model was loaded",
    "lifetime": "the process's largest resident memory so far, above what it was before the model was loaded: this system cannot set it "
    "back, so a row never shows less than the one before",
}


def now(device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize(device)
    return perf_counter()


def free_memory(device) -> float:
    """Bytes that a device has left; infinite where it cannot be known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    known = Path("/proc/meminfo")
    if known.is_file() and (found := re.search(r"MemAvailable:\s+(\d+) kB", known.read_text(encoding="ascii"))):
        return int(found[1]) * 1024
    has_pages = hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if has_pages else math.inf


def read_bandwidth(device) -> float:
    """Bytes a second: the best of a few reads of what no cache holds, by all threads."""
    import torch

    size = int(min(READ_BYTES, free_memory(device) / 8))
    numbers = torch.ones(size // 4, device=device)
    other = torch.empty_like(numbers) if device.type == "cuda" else None
    times = []
    for _ in range(READS):
        began = now(device)
        numbers.sum() if other is None else other.copy_(numbers)
        times.append(now(device) - began)
    return numbers.nbytes * (1 if other is None else 2) / min(times)


def peak_memory(device, reset: bool = False) -> int | None:
    """Bytes at most in use since the last reset (MEMORY says of what); None where the system does not tell."""
    if device.type == "cuda":
        import torch

        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    known = Path("/proc/self/status")
    if known.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", known.read_text(encoding="utf-8"))):
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def description(model) -> dict:
    """Of a model's device and numbers, for the record."""
    import torch

    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()
    whole = str(model.dtype).removeprefix("torch.")
    packed = (each for each in model.parameters() if not each.is_floating_point())
    kinds = {getattr(each, "quant_type", str(each.dtype).removeprefix("torch.")) for each in packed}
    packages = {package: version(package) for package in ("boda", "torch", "transformers")}
    return {
        "device": f"{device.type} ({name})" if name else device.type,
        "dtype": ", ".join([whole, *(f"matrices in {kind}" for kind in sorted(kinds))]),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **packages},
    }


def _processor_name() -> str:
    known = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", known.read_text(encoding="utf-8")) if known.is_file() else None
    return found[1].strip() if found else platform.processor()
