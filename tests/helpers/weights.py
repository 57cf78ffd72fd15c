"""Checkpoints of tests: their metadata and their weights."""

import os
from pathlib import Path
from typing import Any

import torch

from modernbert_train.checkpoints.info import CheckpointInfo
from modernbert_train.checkpoints.source import open_weights
from modernbert_train.config import ModelConfig


class MaliciousCall:
    """What a malicious pickle holds: a call that is made when it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def make_info(**fields: Any) -> CheckpointInfo:
    """Return the metadata of a checkpoint in a first phase, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "step": 3,
        "tokens": 3_000,
        "phase": "pretrain",
        "phase_step": 3,
        "context_tokens": 64,
        "global_rope_theta": 10_000.0,
        "local_rope_theta": 10_000.0,
        "model": ModelConfig(),
        "tokenizer_fingerprint": "",
    }
    return CheckpointInfo(**(defaults | fields))


def load_weights(source: str | Path) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    """Return weights and metadata of a run folder, checkpoint or Hugging Face folder."""
    opened = open_weights(source)
    return opened.read(), opened.info
