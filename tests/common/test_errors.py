"""What users read of an error, and the exit code; tests/faults has whole runs."""

import errno
import os
from pathlib import Path

import pytest
import torch

from modernbert_train.common.errors import (
    FAILED,
    WRONG,
    Explained,
    OtherRankFailed,
    TransientError,
    explain,
    naming,
)
from modernbert_train.common.files import write_atomically
from modernbert_train.config.quantities import parse_tokens
from modernbert_train.store.download import RetryPolicy, retry

FULL = "No space left on device; free some space, or name a folder on a larger disk, then run the same command again"


def raised(function, *arguments) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


def write_to_a_full_disk() -> None:
    with naming(Path("metrics.jsonl")), open("/dev/full", "w") as file:
        file.write("line")


def save_to_a_full_disk() -> None:
    with naming(Path("step.pt")), open("/dev/full", "wb") as file:
        torch.save(torch.zeros(100_000), file)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (write_to_a_full_disk, f"metrics.jsonl: {FULL}"),
        (save_to_a_full_disk, f"step.pt: {FULL}"),
        (
            lambda: write_atomically(Path("gone/recipe.yaml"), ""),
            "gone/.recipe.yaml.tmp: No such file or directory; it, or a folder above it, was moved or deleted while it "
            "was in use; put it back, then run the same command again",
        ),
    ],
)
def test_a_file_that_cannot_be_written(function, text):
    assert explain(raised(function)) == Explained(text, FAILED)


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (
            OSError(errno.EIO, os.strerror(errno.EIO), "a.mds"),
            "a.mds: Input/output error; check the storage",
            1,
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
            "a: Disk quota exceeded; free some of your quota",
            1,
        ),
        (OSError(errno.EFBIG, "File too large", "a.pt"), "a.pt: File too large; raise the largest size", 1),
        (
            PermissionError(errno.EACCES, "Permission denied", "run"),
            "run: Permission denied; give this user access",
            1,
        ),
        (OSError("a library's text\nin two lines"), "a library's text in two lines", 1),
        (
            MemoryError("Unable to allocate 3 GiB"),
            "memory ran out (Unable to allocate 3 GiB); request more",
            1,
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "the GPU's memory ran out (CUDA out of memory); lower",
            1,
        ),
        (FloatingPointError("loss is nan"), "loss is nan", 1),
        (RuntimeError("Connection closed by peer [::1]:1"), "another rank has ended or does not answer", 137),
        (
            RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error"),
            "a data loader worker was k",
            1,
        ),
        (OtherRankFailed("rank 1 (host): no room", 2), "rank 1 (host): no room", 2),
    ],
)
def test_errors_that_users_meet(error, text, code):
    explained = explain(raised(raise_, error))
    assert explained is not None
    assert explained.text.startswith(text)
    assert explained.exit_code == code


@pytest.mark.parametrize("error", [ValueError("of a library"), KeyError("a"), RuntimeError("a defect")])
def test_a_defect_keeps_its_traceback(error):
    assert explain(raised(raise_, error)) is None


def test_what_may_go_well_next_time_is_not_a_mistake_of_the_user():
    assert explain(raised(parse_tokens, "many")).exit_code == WRONG
    unreachable = raised(
        retry, "s3://bucket/a", lambda attempt: raise_(TimeoutError("silent")), RetryPolicy(1, 1.0)
    )
    assert isinstance(unreachable, TransientError)
    assert explain(unreachable).exit_code == FAILED
