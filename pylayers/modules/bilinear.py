import torch
from torch import Tensor, nn

from .. import functional


class Bilinear(nn.Module):
    r"""A bilinear form of two inputs for each output, with the arguments, initial values and state_dict of `torch.nn.Bilinear`.

    .. math:: y_k = \sum_{ij} x_{1,i} \, W_{kij} \, x_{2,j} + b_k

    Args:
        in1_features, in2_features: sizes of the last dimensions of the inputs; in1_features must be above 0.
        out_features: size of the last dimension of the output.
        bias: whether there is a bias.
        device, dtype: of the parameters.

    Shape: input1 :math:`(*, \text{in1\_features})`, input2 :math:`(*, \text{in2\_features})`, output
    :math:`(*, \text{out\_features})`.

    Parameters: `weight` (out_features, in1_features, in2_features) and `bias` (out_features), uniform in
    :math:`\pm 1 / \sqrt{\text{in1\_features}}`.

    Dtypes, errors, source: see `pylayers.functional.bilinear`.

    Equivalent to:
        >>> torch.nn.Bilinear(in1_features, in2_features, out_features, bias, device, dtype)
    """

    __constants__ = ["in1_features", "in2_features", "out_features"]

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"Bilinear: in1_features must be above 0, since the initial values are in ±1/√in1_features, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty((out_features, in1_features, in2_features), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    # Drawn as torch.nn.Bilinear draws.
    reset_parameters = nn.Bilinear.reset_parameters
    extra_repr = nn.Bilinear.extra_repr

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return functional.bilinear(input1, input2, self.weight, self.bias)
