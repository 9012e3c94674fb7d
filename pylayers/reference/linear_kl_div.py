import torch

from .dtypes import accumulation_dtype


def linear_kl_div(
    student_hidden, student_weight, teacher_hidden, teacher_weight, student_bias=None, teacher_bias=None, temperature=1.0,
    reduction="batchmean", chunk_rows=None, dtype=None,
):  # fmt: skip
    acc = accumulation_dtype(student_hidden.dtype)

    def log_probabilities(hidden, weight, bias):
        logits = torch.nn.functional.linear(hidden.to(acc), weight.to(acc), None if bias is None else bias.to(acc))
        return torch.log_softmax(logits / temperature, -1)

    teacher = log_probabilities(teacher_hidden, teacher_weight, teacher_bias)
    student = log_probabilities(student_hidden, student_weight, student_bias)
    loss = (teacher.exp() * (teacher - student)).sum(-1) * temperature**2
    if reduction != "none":
        rows = len(student_hidden)
        loss = loss.sum() / {"sum": 1, "batchmean": rows, "mean": rows * len(student_weight)}[reduction]
    return loss.to(student_hidden.dtype if dtype is None else dtype)
