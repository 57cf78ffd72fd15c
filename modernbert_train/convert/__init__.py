"""Checkpoints to Hugging Face folders, and back."""

from modernbert_train.convert.average import average_checkpoints, ties_checkpoints
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.convert.import_ import import_folder
from modernbert_train.convert.parity import FailedCheck

__all__ = ["FailedCheck", "average_checkpoints", "export_checkpoint", "import_folder", "ties_checkpoints"]
