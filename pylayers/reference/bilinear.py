def bilinear(input1, input2, weight, bias=None):
    out_features, in1_features, in2_features = weight.shape
    projected = (input2 @ weight.reshape(-1, in2_features).T).unflatten(-1, (out_features, in1_features))
    y = (projected @ input1.unsqueeze(-1)).squeeze(-1)
    return y if bias is None else y + bias
