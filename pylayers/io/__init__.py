"""Models, tensors and checkpoints in files, without pickle."""

from .checkpoint import Checkpoint
from .container import DamagedFile
from .matching import Matching, load_matching
from .model import load_model, save_model
from .objects import load, save
from .registry import register

__all__ = ["Checkpoint", "DamagedFile", "Matching", "load", "load_matching", "load_model", "register", "save", "save_model"]
