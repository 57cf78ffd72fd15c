"""Conversion of checkpoints: export to Hugging Face, import from it, and averaging."""

from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.convert.average import average_checkpoints, ties_checkpoints
from modernbert_train.convert.export import export_checkpoint
from modernbert_train.convert.import_ import import_folder

__all__ = ["FailedCheck", "average_checkpoints", "export_checkpoint", "import_folder", "ties_checkpoints"]
