"""Our ops and layers on many processes: rules for DTensor, styles of tensor parallelism, losses over a vocabulary that is sharded.

Importing it teaches DTensor our ops; that happens by itself when one first meets them, except under torch.compile.
"""

from .losses import vocabulary_parallel_cross_entropy, vocabulary_parallel_linear_cross_entropy
from .registration import register
from .styles import ColwiseParallel, RowwiseParallel, SequenceParallel, VocabularyParallel

__all__ = [
    "ColwiseParallel",
    "RowwiseParallel",
    "SequenceParallel",
    "VocabularyParallel",
    "vocabulary_parallel_cross_entropy",
    "vocabulary_parallel_linear_cross_entropy",
]

register()
