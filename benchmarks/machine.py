"""Names the machine, so that a number can be read a year later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

# Above this share of others the report carries a warning.
BUSY = 0.15


def describe(device: torch.device) -> dict:
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "pylayers": _version("torch-pylayers"),
        "git": _git_revision(),
        "busy_before": busy_share(),
    }


def sentence(machine: dict) -> str:
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "triton", "cuda", "driver") if machine[name])
    return f"{where}; {versions}"


def busy_share(window: float = 0.3) -> float | None:
    """Share of all CPU time that others use, while this process sleeps."""

    def ticks() -> tuple[int, int]:
        counts = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(counts), counts[3] + counts[4]  # idle and waiting for a disk

    try:
        total, idle = ticks()
        time.sleep(window)
        total_after, idle_after = ticks()
    except (OSError, ValueError, IndexError):
        return None
    return round(1 - (idle_after - idle) / max(1, total_after - total), 3)


def warnings(machine: dict) -> list[str]:
    """What a reader must know before trusting a number."""
    busy = max(machine["busy_before"] or 0.0, machine["busy_after"] or 0.0)
    if busy < BUSY:
        return []
    return [f"Other programs used {busy:.0%} of the CPU: times, and ratios too, are unreliable on a busy machine."]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _git_revision() -> str | None:
    """The revision of the checkout that this file lies in; an installed copy has none."""
    folder = Path(__file__).resolve().parent
    if (folder.parent / ".git").exists():
        return _output("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12")
    return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().split("\n")[0] or None if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
