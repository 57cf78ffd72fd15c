"""Checkpoints to Hugging Face folders, and back."""

from modernbert_train.hub.average import average_checkpoints, ties_checkpoints
from modernbert_train.hub.export import export_checkpoint
from modernbert_train.hub.import_ import import_folder
from modernbert_train.hub.parity import FailedCheck

__all__ = ["FailedCheck", "average_checkpoints", "export_checkpoint", "import_folder", "ties_checkpoints"]
