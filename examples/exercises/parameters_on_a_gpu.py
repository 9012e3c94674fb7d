"""How are parameters read and written on a GPU?"""

import tempfile
from pathlib import Path

import torch

import pylayers
from pylayers import device, io


def main():
    torch.manual_seed(0)
    place = device.try_gpu()
    layer = pylayers.Linear(4, 2, device=place)
    with torch.no_grad():
        layer.weight.fill_(1.5)  # written where it lies
    print("read back:", layer.weight.cpu().unique().tolist(), "from", place.type)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer"
        io.save_model(layer, path)
        moved = io.load_model(path, device="cpu")
    print("saved there, loaded on the CPU:", moved.weight.device, torch.equal(moved.weight, layer.weight.cpu()))
    skipped = "" if place.type == "cuda" else " (no GPU here: the same lines ran on the CPU)"
    print(f"Answer: as anywhere; device= of load_model says where they go.{skipped}")


if __name__ == "__main__":
    main()
