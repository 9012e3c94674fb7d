"""A training step of the language model on several processes of this machine: torch.nn's layers and ours, by turns in the same processes.

    python -m torch.distributed.run --nproc-per-node=2 -m pylayers.benchmarks.processes FILE KIND DEVICE STEPS
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from . import parallelism
from .language_model import GPU, OURS, QUICK, TORCH, Config, Trainer, batches, standard_library
from .records import Case, Entry, Timing
from .timing import synchronize, without_gc

RANKS = 2
KINDS = ("ddp", "fsdp")
CLOCK = "processes"
WARM_UP, STEPS = 3, 12
PATIENCE = 600  # seconds for all of a kind


def measure(kind: str, device: torch.device, steps: int = STEPS) -> Case:
    """Of a small model, if the steps are few."""
    config = _config(device, steps)
    case = Case("language_model", kind, (config.batch, config.tokens, config.dim), "float32", "training step", CLOCK)
    case.entries = {"eager": Entry("eager"), "pylayers": Entry("ours")}
    if device.type == "cuda" and torch.cuda.device_count() < RANKS:
        samples, note = {}, f"n/a: needs {RANKS} GPUs"
    else:
        samples, note = _run(kind, device, steps)
    for name, entry in case.entries.items():
        entry.timing, entry.note = (Timing.of(samples[name]), "") if name in samples else (None, note)
    return case


def _run(kind: str, device: torch.device, steps: int) -> tuple[dict[str, list[float]], str]:
    """Seconds of each step; or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "seconds.json"
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", "-m", __name__, str(found), kind, device.type, str(steps)]
        try:
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return {}, f"n/a: took more than {PATIENCE} s"
        if not found.exists():
            errors = [line for line in done.stderr.splitlines() if "Error" in line]
            return {}, f"n/a: {errors[0][:120] if errors else done.returncode}"
        return json.loads(found.read_text()), ""


def _config(device: torch.device, steps: int) -> Config:
    if steps < STEPS:
        return QUICK
    return replace(GPU, blocks=2) if device.type == "cuda" else Config()


def worker(found: Path, kind: str, device: torch.device, steps: int) -> None:
    config = _config(device, steps)
    torch.set_num_threads(max(1, torch.get_num_threads() // RANKS))
    with parallelism.processes(device) as mesh, without_gc():
        trainers = {name: Trainer(config, layers, device, spread=parallelism.spread(kind, mesh, config))
                    for name, layers in (("eager", TORCH), ("pylayers", OURS))}  # fmt: skip
        samples: dict[str, list[float]] = {name: [] for name in trainers}
        for index, windows in enumerate(batches(standard_library()[0], config, WARM_UP + steps, device, seed=0)):
            own = parallelism.own_rows(windows, kind, mesh)
            for name in sorted(trainers, reverse=bool(index % 2)):
                dist.barrier()
                start = time.perf_counter()
                trainers[name].step(own)
                synchronize(device)
                if index >= WARM_UP:
                    samples[name].append(time.perf_counter() - start)
        if dist.get_rank() == 0:
            found.write_text(json.dumps(samples))


if __name__ == "__main__":
    worker(Path(sys.argv[1]), sys.argv[2], torch.device(sys.argv[3]), int(sys.argv[4]))
