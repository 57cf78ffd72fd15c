"""`modernbert doctor`: whether this machine can train, and what to do where it cannot."""

from modernbert_train.doctor.examine import examine
from modernbert_train.doctor.findings import Finding, as_json, as_text

__all__ = ["Finding", "as_json", "as_text", "examine"]
