import torch
from torch import Tensor

from ..door import door

_dropout_add = door("dropout_add")


def dropout_add(
    input: Tensor, residual: Tensor, p: float = 0.5, training: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    r"""Dropout of the input, added to a residual stream: one pass forward, and one backward that draws the mask again.

    .. math:: y = \text{residual} + \frac{m \odot x}{1 - p}, \quad m_i = 0 \text{ with probability } p \text{, else } 1

    No mask is stored: a call draws one seed, and element i, counted by its index, is kept by a random number of seed and i alone.
    One seed gives the same bits on every backend and device, for any number of threads and any strides. The gradient of residual is
    the incoming one itself.

    Args:
        input: any shape, with any strides.
        residual: the shape, dtype and device of input.
        p: the probability that an element is dropped, counted in steps of 2⁻³¹. With 1 all are: the output is residual, and the
            gradient of input is zero. An element that is dropped counts as 0, whether it is finite or not.
        training: False adds input as it is. So does p = 0, and neither draws a seed.
        generator: of the CPU or of the device of input. None is torch's default generator of that device. A generator of the CPU goes
            on by one random number of 64 bits, as with torch.randint(2**63 - 1, ()); the offset of one of CUDA goes on by 4,
            without waiting for the device. torch.manual_seed repeats the masks, torch.utils.checkpoint replays them, and a captured
            CUDA graph draws others each time it is replayed.

    Shape: input, residual, output: :math:`(*)`.

    Dtypes: float64, float32, float16, bfloat16, one for both; computed in float32 (float64 for float64), rounded once. Under autocast
        the wider of the two dtypes, as in a sum.

    Raises:
        TypeError: input is not floating point, or residual has another dtype.
        ValueError: residual has another shape, or p is not between 0 and 1.
        RuntimeError: residual is on another device, the generator of another device, or the chosen backend cannot serve the device;
            in torch.func.vmap, where randomness is not "different" or "same".

    Source: Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors, 2012; Salmon et al.,
    Parallel Random Numbers: As Easy as 1, 2, 3, 2011, for Philox4x32-10.

    Equivalent to (in distribution):
        >>> residual + torch.nn.functional.dropout(input, p, training)
    """
    return _dropout_add(input, residual, p, training, generator)
