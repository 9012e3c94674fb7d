from typing import Any


def sharded(tensor: Any, dim: int | None = None) -> bool:
    """Whether it is a DTensor, and has this dimension sharded. Told by name: nobody imports torch.distributed for a Tensor."""
    if type(tensor).__name__ != "DTensor":
        return False
    return dim is None or any(place.is_shard(dim) for place in tensor.placements)
