"""Checkpoints to Hugging Face folders, and back."""

from modernbert_train.hub.export import export_checkpoint
from modernbert_train.hub.import_ import import_folder

__all__ = ["export_checkpoint", "import_folder"]
