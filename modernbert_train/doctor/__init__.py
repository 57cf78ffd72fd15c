"""`modernbert doctor`: check whether a machine can train, and suggest fixes."""

from modernbert_train.doctor.examine import examine
from modernbert_train.doctor.findings import Finding, as_json, as_text

__all__ = ["Finding", "as_json", "as_text", "examine"]
