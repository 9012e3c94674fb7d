"""Devices, and a log of losses that does not stall them."""

import operator

import torch
from torch import Tensor


def cpu() -> torch.device:
    """The CPU."""
    return torch.device("cpu")


def num_gpus() -> int:
    """How many GPUs there are. Asking makes no CUDA context."""
    return torch.cuda.device_count()


def _index(who: str, i: int) -> int:
    if isinstance(i, bool):
        raise TypeError(f"{who}: i must be an int, got {i!r}")
    try:
        number = operator.index(i)
    except TypeError:
        raise TypeError(f"{who}: i must be an int, got {type(i).__name__}") from None
    if number < 0:
        raise ValueError(f"{who}: i must be at least 0, got {number}")
    return number


def gpu(i: int = 0) -> torch.device:
    """GPU number i, which must be there.

    Raises:
        RuntimeError: it is not.
    """
    number = _index("gpu", i)
    if number >= num_gpus():
        raise RuntimeError(f"gpu: i must be below the number of GPUs ({num_gpus()}), got {number}; try_gpu falls back to the CPU")
    return torch.device("cuda", number)


def try_gpu(i: int = 0) -> torch.device:
    """GPU number i if it is there, else the CPU."""
    number = _index("try_gpu", i)
    return torch.device("cuda", number) if number < num_gpus() else cpu()


def try_all_gpus() -> list[torch.device]:
    """Every GPU, or the CPU where there is none: the list is never empty."""
    return [torch.device("cuda", i) for i in range(num_gpus())] or [cpu()]


class GpuLog:
    """The last `size` values of a loss, kept on the device, so that logging waits for nothing.

    `print(loss.item())` in a training loop makes the CPU wait for the GPU in every step. `log` enqueues a few tiny kernels
    instead, and only `values` waits, once. How many values there were is counted on the device too, so `log` may stand inside
    `torch.compile(fullgraph=True)` and inside a captured CUDA graph, where every replay logs.

    Args:
        size: how many values are kept.
        device: of the values; the first GPU if there is one, else the CPU.
        dtype: that values are kept in; they are cast to it. float32 rounds float64 values and ints above 2²⁴.

    Raises:
        TypeError: dtype is not float64, float32, float16 or bfloat16.
        ValueError: size is not at least 1.

    Equivalent to:
        >>> values = collections.deque(maxlen=size)
        >>> values.append(loss.item())
    """

    def __init__(self, size: int, device: torch.device | str | int | None = None, dtype: torch.dtype = torch.float32) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"GpuLog: size must be an int of at least 1, got {size!r}")
        if dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(f"GpuLog: dtype must be float64, float32, float16 or bfloat16, got {dtype!r}")
        self.size = size
        device = try_gpu() if device is None else torch.device(device)
        with torch.inference_mode(False):
            self._ring = torch.zeros(size, dtype=dtype, device=device)
            self._count = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def device(self) -> torch.device:
        return self._ring.device

    def log(self, value: Tensor | float) -> None:
        """Keeps a copy of the value, which may change afterwards.

        Args:
            value: a number, or a tensor of one element on the log's device; its gradient is left alone.

        Raises:
            TypeError: it is neither, or complex.
            ValueError: it has more elements or none.
            RuntimeError: it is on another device, from where a copy would wait.
        """
        ring, count = self._ring, self._count
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"GpuLog.log: value must have one element, got shape {list(value.shape)}")
            if value.is_complex():
                raise TypeError(f"GpuLog.log: value must be real, got {value.dtype}")
            if value.device != ring.device:
                raise RuntimeError(f"GpuLog.log: value must be on the device of the log ({ring.device}), got {value.device}")
            row = value.detach().reshape(1).to(ring.dtype)
        elif isinstance(value, (int, float)):
            row = torch.full((1,), value, dtype=ring.dtype, device=ring.device)
        else:
            raise TypeError(f"GpuLog.log: value must be a number or a Tensor, got {type(value).__name__}")
        with torch.no_grad():
            ring.index_copy_(0, count % self.size, row)
            count.add_(1)

    def values(self) -> Tensor:
        """The last values, the oldest first, as a tensor on the CPU. Waits for the device, once."""
        together = torch.cat([self._count.view(torch.uint8), self._ring.view(torch.uint8)]).cpu()
        count = int(together[:8].view(torch.int64))
        ring = together[8:].view(self._ring.dtype)
        return ring[:count].clone() if count <= self.size else ring.roll(-(count % self.size))

    def clear(self) -> None:
        """Forgets every value."""
        self._count.zero_()

    def __len__(self) -> int:
        """How many values are kept. Waits for the device."""
        return min(int(self._count), self.size)

    def __bool__(self) -> bool:
        return True  # without waiting

    def __repr__(self) -> str:
        return f"GpuLog(size={self.size}, device={str(self.device)!r}, dtype={self._ring.dtype})"
