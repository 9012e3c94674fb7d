import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values stored in `dtype` are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
