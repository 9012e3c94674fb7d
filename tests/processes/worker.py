"""One of several processes on this machine: runs checks by name, and says of each what went wrong.

    python -m processes.worker FOLDER RANK RANKS CHECK...
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from processes import checks
from processes.sharded_ops import Lacking

LACKING = "lacking: "


def main(folder: Path, rank: int, ranks: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store, timeout=timedelta(seconds=60))
    mesh = dist.init_device_mesh("cpu", (ranks,))
    told = {}
    for name in names:
        start = time.perf_counter()
        try:
            checks.CHECKS[name](mesh, folder)
            told[name] = ""
        except Lacking as reason:
            told[name] = f"{LACKING}{reason}"
        except Exception as error:  # noqa: BLE001 whatever it is, it is told
            told[name] = f"{type(error).__name__}: {error}"
        if rank == 0:
            print(f"{name}: {time.perf_counter() - start:.1f} s {told[name][:300]}", flush=True)
    (folder / f"told-{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
