"""One file of an object store: it arrives whole and as expected, in one step, or an error says why not.

Streaming's downloaders do the transfer, with the credentials and settings that they document. What they leave open is
done here: an end for a server that accepts a connection and falls silent, attempts that include the check of what has
arrived, and errors that name the file and what to do. Nothing here imports torch or streaming before it downloads.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

log = logging.getLogger(__name__)

Check = Callable[[Path], str | None]  # what is wrong with a file that has arrived; None: nothing
Progress = Callable[[int], object]  # told of bytes that have arrived in addition

DAMAGED_ATTEMPTS = 3  # a file that arrives damaged so often is damaged in the store
LONGEST_PAUSE_SECONDS = 30.0
_POLL_SECONDS = 0.1

_AZURE_KEYS = "set AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY, or run `az login`"
_KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; and S3_ENDPOINT_URL, where the server is "
    "not Amazon's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GCS_KEY and GCS_SECRET, or run "
    "`gcloud auth application-default login`",
    "oci": "run `oci setup config`, which writes ~/.oci/config",
    "azure": _AZURE_KEYS,
    "azure-dl": _AZURE_KEYS,
    "hf": "set HF_TOKEN, or run `hf auth login`, and ask for access to the dataset on its page",
}
SCHEMES = tuple(_KEYS)

# Errors of the clients that say that they have no credentials, or none that count, by their names: none of the
# libraries is imported for a store that does not need it.
_NO_KEYS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",  # S3
    "DefaultCredentialsError", "RefreshError",  # Google
    "ConfigFileNotFound", "InvalidConfig",  # Oracle
    "ClientAuthenticationError", "CredentialUnavailableError",  # Azure
    "GatedRepoError", "RepositoryNotFoundError", "LocalTokenNotFoundError",  # Hugging Face
}  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class PermanentDownloadError(ValueError):
    """A download that another attempt would not help: no credentials, no such file, no room on the disk."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a file is tried for: so many attempts, each given up when no byte has arrived for `silence_seconds`."""

    attempts: int = 8
    silence_seconds: float = 60.0

    def pause(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number 1, 2, ..."""
        return min(2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)

    def longest_seconds(self) -> float:
        """Until a server that never answers is given up."""
        return self.attempts * self.silence_seconds + sum(map(self.pause, range(1, self.attempts)))


def is_url(store: str) -> bool:
    """Whether a store is named by a URL; else it is a folder of this machine."""
    return "://" in store


def check_scheme(url: str) -> None:
    """ValueError unless the URL is of a kind of store that can be read."""
    if urlparse(url).scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"store: {url} is of an unknown kind; use a folder, or a URL with {allowed}")


def expect(num_bytes: int, hashes: Mapping[str, str]) -> Check:
    """A check of size and hashes (algorithm -> hexadecimal digest, those of hashlib and xxhash)."""

    def problem(file: Path) -> str | None:
        found = file.stat().st_size
        if found != num_bytes:
            return f"{found:,} bytes instead of {num_bytes:,}"
        for algorithm, digest in hashes.items():
            if _digest(file, algorithm) != digest:
                return f"its {algorithm} differs from the index's"
        return None

    return problem


def _digest(file: Path, algorithm: str) -> str:
    if algorithm in hashlib.algorithms_available:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, algorithm).hexdigest()
    from streaming.base.hashing import get_hash  # knows xxhash besides

    return get_hash(algorithm, file.read_bytes())


class Downloads:
    """Fetches files. Keeps one client for each kind of store, process and thread: they are costly to make."""

    def __init__(self, patience: RetryPolicy) -> None:
        self._patience = patience
        self._clients: dict[tuple[int, int, str], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Clients stay in the process that made them."""
        return {"_patience": self._patience, "_clients": {}}

    def fetch(
        self, url: str, file: Path, check: Check, workplace: Path, progress: Progress | None = None
    ) -> None:
        """Bring `url` to `file`, replacing what is there.

        Args:
            url: of the file.
            file: appears in one step, after `check` has passed it.
            check: of what has arrived.
            workplace: a folder of the caller's own on the disk of `file`; made, and removed at the end.
            progress: told of bytes as they arrive.

        ValueError: it cannot be had, with the reason, and how often and how long it was tried.

        """
        started, damaged = time.monotonic(), 0
        for attempt in range(1, self._patience.attempts + 1):
            arriving = workplace / str(attempt) / file.name
            try:
                arriving.parent.mkdir(parents=True)
                self._transfer(url, arriving, progress)
                problem = check(arriving)
                if problem is None:
                    arriving.replace(file)
                    return
                damaged += 1
                reason = f"it arrives damaged: {problem}"
            except Exception as error:  # each client has exceptions of its own
                _raise_if_final(url, file, error)
                self._clients.pop(self._client_key(url), None)
                reason = _one_line(error)
            finally:
                shutil.rmtree(workplace, ignore_errors=True)
            if damaged == DAMAGED_ATTEMPTS or attempt == self._patience.attempts:
                break
            pause = self._patience.pause(attempt)
            log.warning("%s: attempt %d failed (%s); again in %.0f s", url, attempt, reason, pause)
            time.sleep(pause)
        seconds = time.monotonic() - started
        remedy = (
            "it is damaged in the store: upload it again from where it was prepared"
            if damaged == DAMAGED_ATTEMPTS
            else "check the server and the network; the same command goes on from the last checkpoint"
        )
        raise ValueError(
            f"store: {url} cannot be read, given up after {attempt} attempts in {seconds:.0f} s ({reason}); {remedy}"
        )

    def _client_key(self, url: str) -> tuple[int, int, str]:
        return os.getpid(), threading.get_ident(), urlparse(url).scheme

    def _transfer(self, url: str, arriving: Path, progress: Progress | None) -> None:
        """Download in a thread that is left behind when nothing arrives any more: no client can be interrupted."""
        from streaming.base.storage import CloudDownloader

        key = self._client_key(url)
        if key not in self._clients:
            self._clients[key] = CloudDownloader.get(url)
        client, failure = self._clients[key], []

        def run() -> None:
            try:
                client.download(url, str(arriving), self._patience.silence_seconds)
            except BaseException as error:
                failure.append(error)

        transfer = threading.Thread(target=run, name=f"download {url}", daemon=True)
        transfer.start()
        arrived, last_byte = 0, time.monotonic()
        while transfer.is_alive():
            transfer.join(_POLL_SECONDS)
            now = _bytes_in(arriving.parent)
            if now > arrived:
                if progress:
                    progress(now - arrived)
                arrived, last_byte = now, time.monotonic()
            elif time.monotonic() - last_byte > self._patience.silence_seconds:
                raise TimeoutError(f"no byte for {self._patience.silence_seconds:g} s")
        if failure:
            raise failure[0]
        if progress:
            progress(arriving.stat().st_size - arrived)


def _bytes_in(folder: Path) -> int:
    """Of all files, whatever a client calls what it has not finished."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total


def _raise_if_final(url: str, file: Path, error: Exception) -> None:
    """PermanentDownloadError, for what another attempt would not change."""
    chain = list(_chain(error))
    status = next((status for link in chain if (status := _http_status(link))), None)
    scheme = urlparse(url).scheme
    no_room = next((link for link in chain if isinstance(link, OSError) and link.errno in _DISK_FULL), None)
    if no_room:
        raise PermanentDownloadError(
            f"data.cache.folder: no room for {file} ({no_room.strerror}); make room, name one on a larger disk, or "
            "set data.cache.limit_bytes to what it holds"
        ) from error
    denied = any(type(link).__name__ in _NO_KEYS for link in chain) or "GCS_KEY" in str(error)
    if denied or status in (401, 403):
        how = (
            "is not allowed with the credentials found"
            if status
            else "needs credentials, and none were found"
        )
        raise PermanentDownloadError(
            f"store: reading {url} {how} ({_one_line(error)}); {_KEYS[scheme]}"
        ) from error
    if status == 404 or isinstance(error, FileNotFoundError):
        raise PermanentDownloadError(
            f"store: {url} does not exist ({_one_line(error)}); check data.sources and what was uploaded"
        ) from error
    if type(error) is ValueError:  # a client cannot make sense of the URL or of its settings
        raise PermanentDownloadError(
            f"store: {url} cannot be read ({_one_line(error)}); check the URL and the server's settings"
        ) from error
    if isinstance(error, ImportError):
        raise PermanentDownloadError(
            f"store: {url} needs a package that is not installed ({_one_line(error)})"
        ) from error


def _chain(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _http_status(error: BaseException) -> int | None:
    """Of an answer that a client has made an exception of; each has its own place for it."""
    response = getattr(error, "response", None)
    found = (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode")  # S3
        if isinstance(response, dict)
        else getattr(response, "status_code", None)  # Hugging Face
        or getattr(error, "status_code", None)  # Azure
        or getattr(error, "status", None)  # Oracle
        or getattr(error, "code", None)  # Google
    )
    return found if isinstance(found, int) else None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
