"""Requests to object stores: retries, and errors that say what to do.

mosaicml-streaming's downloaders do the transfer, with the credentials and settings that they document. This module adds
what they lack: a timeout for a server that accepts a connection and falls silent, retries that include the check of
what has arrived, and errors that name the file and the remedy.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from modernbert_train.common.errors import TransientError, chain
from modernbert_train.common.redaction import CREDENTIALS, check_no_secret, redact
from modernbert_train.common.text import one_line
from modernbert_train.store.integrity import damage
from modernbert_train.store.mds import ShardFile

log = logging.getLogger(__name__)

# Returns what is wrong with a file that has arrived, or None.
Check = Callable[[Path], str | None]
# Called with the number of bytes that have arrived since the last call.
Progress = Callable[[int], object]
Result = TypeVar("Result")

# A file that arrives damaged this often is damaged in the store.
DAMAGED_ATTEMPTS = 3
LONGEST_PAUSE_SECONDS = 30.0
_POLL_SECONDS = 0.1

SCHEMES = tuple(CREDENTIALS)

# Errors by which clients report missing or invalid credentials. Compared by name, so that no client library is imported
# for a store that does not need it.
_CREDENTIAL_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",  # S3
    "DefaultCredentialsError", "RefreshError",  # Google
    "ConfigFileNotFound", "InvalidConfig",  # Oracle
    "ClientAuthenticationError", "CredentialUnavailableError",  # Azure
    "GatedRepoError", "RepositoryNotFoundError", "LocalTokenNotFoundError",  # Hugging Face
}  # fmt: skip
# Errors by which they report that no connection was made: no network, no such host, or nothing listens there.
_CONNECTION_ERRORS = {
    "gaierror", "ConnectionRefusedError",  # sockets
    "EndpointConnectionError", "ConnectTimeoutError",  # S3
    "TransportError",  # Google
    "ConnectTimeout",  # Oracle
    "ServiceRequestError",  # Azure
    "ConnectError", "LocalEntryNotFoundError", "OfflineModeIsEnabled",  # Hugging Face
}  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class PermanentDownloadError(ValueError):
    """A failure that another attempt would not change: no credentials, no such file."""


class NoRoomError(PermanentDownloadError, TransientError):
    """The disk of the cache is full, which the next start may not meet."""


class MissingFileError(PermanentDownloadError):
    """The store answers, but has no such file."""


class DamagedFileError(Exception):
    """A file has arrived and did not pass its check."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is attempted, and after how many seconds without data an attempt counts as failed."""

    attempts: int = 8
    silence_seconds: float = 60.0

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number 1, 2, ..."""
        return min(2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)


def is_url(store: str) -> bool:
    """Check whether a store is named by a URL, not by a folder of this machine."""
    return "://" in store


def check_scheme(url: str) -> None:
    """Raise ValueError unless the URL has the scheme of an object store that can be read, and no secret."""
    check_no_secret("store", url)
    if urlparse(url).scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"store: {url} has an unknown scheme; use a folder, or a URL with {allowed}")


def expect(num_bytes: int, hashes: Mapping[str, str]) -> Check:
    """Build a check of the size and the hashes (algorithm -> hexadecimal digest) of a file."""
    return lambda file: damage(file, num_bytes, hashes)


def expect_file(stated: ShardFile) -> Check:
    """Build the check of a file that index.json describes."""
    return expect(stated.bytes, stated.hashes)


def retry(url: str, request: Callable[[int], Result], policy: RetryPolicy) -> Result:
    """Call `request` until it succeeds.

    Args:
        url: what is requested, for messages.
        request: called with the number of the attempt, from 1.
        policy: number of attempts and the pauses between them.

    Returns:
        What `request` returned.

    Raises:
        PermanentDownloadError: Another attempt would not help.
        ValueError: Every attempt failed: the last reason, and how often and how long it was tried. A `TransientError`
            if the file has not arrived.
    """
    started, damaged = time.monotonic(), 0
    for attempt in range(1, policy.attempts + 1):
        try:
            return request(attempt)
        except DamagedFileError as error:
            damaged += 1
            unreachable, reason = False, f"it arrives damaged: {error}"
        except Exception as error:  # each client has its own exceptions
            unreachable = _is_unreachable(error)
            if not unreachable:
                _raise_if_permanent(url, error)
            reason = ("not reachable: " if unreachable else "") + _described(error)
        if damaged == DAMAGED_ATTEMPTS or attempt == policy.attempts:
            break
        pause = policy.pause(attempt)
        log.warning("%s: attempt %d failed (%s); trying again in %.0f s", url, attempt, reason, pause)
        time.sleep(pause)
    seconds = time.monotonic() - started
    remedy = (
        "it is damaged in the store: upload it again from where it was prepared"
        if damaged == DAMAGED_ATTEMPTS
        else "check the server and the network, then run the same command again to continue"
    )
    what = "is not reachable" if unreachable else "cannot be read"
    kind = ValueError if damaged == DAMAGED_ATTEMPTS else TransientError
    raise kind(
        f"store: {url} {what}, given up after {attempt} attempts in {seconds:.0f} s ({reason}); {remedy}"
    )


class Downloads:
    """Downloads files. Keeps one client for each scheme, process and thread, since they are costly to create.

    Args:
        policy: of each download.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._clients: dict[tuple[int, int, str], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the clients, which stay in the process that created them."""
        return {"_policy": self._policy, "_clients": {}}

    def fetch(
        self, url: str, file: Path, check: Check, workplace: Path, progress: Progress | None = None
    ) -> None:
        """Download `url` to `file`, replacing it.

        Args:
            url: of the file.
            file: appears in one step, after `check` has passed.
            check: of what has arrived.
            workplace: a temporary folder for this call alone, on the disk of `file`; created, and removed at the end.
            progress: called with the bytes that have arrived.

        Raises:
            ValueError: The file cannot be downloaded, see `retry`.
        """

        def download(attempt: int) -> None:
            arriving = workplace / str(attempt) / file.name
            try:
                arriving.parent.mkdir(parents=True)
                self._transfer(url, arriving, progress)
                if (problem := check(arriving)) is not None:
                    raise DamagedFileError(problem)
                arriving.replace(file)
            except Exception as error:  # a client may have wrapped it
                if (full := _disk_full(error)) is None:
                    raise
                raise NoRoomError(
                    f"data.cache.folder: no room for {file} ({full.strerror}); free some space, name a folder on a "
                    "larger disk, or set data.cache.limit_bytes to what this disk holds"
                ) from error
            finally:
                shutil.rmtree(workplace, ignore_errors=True)

        retry(url, download, self._policy)

    def _transfer(self, url: str, arriving: Path, progress: Progress | None) -> None:
        """Download in a thread that is abandoned once no data arrives: clients cannot be interrupted."""
        from streaming.base.storage import CloudDownloader  # takes seconds to import

        key = os.getpid(), threading.get_ident(), urlparse(url).scheme
        if key not in self._clients:
            self._clients[key] = CloudDownloader.get(url)
        client = self._clients[key]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                client.download(url, str(arriving), self._policy.silence_seconds)
            except BaseException as error:
                failures.append(error)

        transfer = threading.Thread(target=run, name=f"download {url}", daemon=True)
        transfer.start()
        try:
            arrived = self._watch(transfer, arriving.parent, progress)
            if failures:
                raise failures[0]
        except BaseException:
            # The next attempt starts with a new connection.
            self._clients.pop(key, None)
            raise
        if progress:
            progress(arriving.stat().st_size - arrived)

    def _watch(self, transfer: threading.Thread, folder: Path, progress: Progress | None) -> int:
        """Wait for a thread that writes into a folder; return the bytes seen so far."""
        arrived, last_byte = 0, time.monotonic()
        while transfer.is_alive():
            transfer.join(_POLL_SECONDS)
            now = _bytes_in(folder)
            if now > arrived:
                if progress:
                    progress(now - arrived)
                arrived, last_byte = now, time.monotonic()
            elif time.monotonic() - last_byte > self._policy.silence_seconds:
                raise TimeoutError(f"no byte for {self._policy.silence_seconds:g} s")
        return arrived


def _bytes_in(folder: Path) -> int:
    """Sum up the sizes of all files, since each client has its own name for a file that is not complete."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total


def _raise_if_permanent(url: str, error: Exception) -> None:
    if isinstance(error, PermanentDownloadError):
        raise error
    status = _status(error)
    if _is_any(error, _CREDENTIAL_ERRORS) or "GCS_KEY" in str(error):
        denied = "needs credentials, and none were found"
    elif status in (401, 403):
        denied = "is not allowed with the credentials found"
    else:
        denied = None
    if denied:
        hint = CREDENTIALS.get(urlparse(url).scheme, "check your access to it")
        raise PermanentDownloadError(
            f"store: reading {url} {denied} ({_described(error)}); {hint}"
        ) from error
    if status == 404 or isinstance(error, FileNotFoundError):
        raise MissingFileError(
            f"store: {url} does not exist ({_described(error)}); check data.sources and what was uploaded"
        ) from error
    if type(error) is ValueError:  # a client cannot parse the URL or its settings
        raise PermanentDownloadError(
            f"store: {url} cannot be read ({_described(error)}); check the URL and the server's settings"
        ) from error
    if isinstance(error, ImportError):
        raise PermanentDownloadError(
            f"store: {url} needs a package that is not installed ({_described(error)})"
        ) from error


def _is_unreachable(error: BaseException) -> bool:
    """Check whether no connection was made; Hugging Face's client then says that a file is not in its own cache."""
    return _is_any(error, _CONNECTION_ERRORS) and _status(error) is None


def _status(error: BaseException) -> int | None:
    return next((status for link in chain(error) if (status := _http_status(link))), None)


def _is_any(error: BaseException, names: set[str]) -> bool:
    """Check whether an error, or one that led to it, has one of these names."""
    return any(type(link).__name__ in names for link in chain(error))


def _disk_full(error: Exception) -> OSError | None:
    return next(
        (link for link in chain(error) if isinstance(link, OSError) and link.errno in _DISK_FULL), None
    )


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of a client carries; each client keeps it elsewhere."""
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


def _described(error: BaseException) -> str:
    return redact(f"{type(error).__name__}: {one_line(error)}")[:300]
