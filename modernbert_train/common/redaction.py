"""Secrets in text: user info of URLs, signatures and tokens of their queries, keys, and values of the environment.

A recipe with a secret is refused, and so is a URL with one, since recipes and URLs are written to run folders, W&B,
logs and job scripts. What is not ours to refuse, such as the message of a library, goes through `redact` on its way to
a log, an error line or a file.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from traceback import format_exception
from types import TracebackType
from urllib.parse import quote, urlparse

HIDDEN = "***"

_AZURE_CREDENTIALS = "set AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY, or run `az login`"
# Scheme of a URL -> where its client finds credentials.
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; and S3_ENDPOINT_URL if the server is not "
    "Amazon's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GCS_KEY and GCS_SECRET, or run "
    "`gcloud auth application-default login`",
    "oci": "run `oci setup config`, which writes ~/.oci/config",
    "azure": _AZURE_CREDENTIALS,
    "azure-dl": _AZURE_CREDENTIALS,
    "hf": "set HF_TOKEN, or run `hf auth login`, and ask for access to the dataset on its page",
}

# What is to be hidden, as `secret`, and what it is. A Path has merged the slashes of a URL. A name without a password
# before @ is no secret for all schemes: oci://bucket@namespace, abfs://container@account.
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), kind)
    for kind, pattern in (
        (
            "a password before the @ of a URL",
            r"""[a-z0-9]:/{1,2}(?P<secret>[^\s/@:'"]*:(?!\d*(?:[/?#\s'"]|$))[^\s'"]*)@""",
        ),
        ("a user before the @ of a URL", r"""\b(?:https?|s3|gs|git\+https):/{1,2}(?P<secret>[^\s/@:'"]+)@"""),
        (
            "a key in the query of a URL",
            r"""[?&][\w.-]*(?:sig|signature|token|secret|password|passwd|pwd|key|keyid|credential)="""
            r"""(?P<secret>[^&\s#'"]+)""",
        ),
        (
            "a password or key",
            r"""(?<![a-z0-9])(?:(?:api|access|account|shared|secret|private)[_-]?(?:access[_-]?)?key(?:[_-]?id)?"""
            r"""|(?:client|aws|gcs)?[_-]?secret|password|passwd|(?:auth|access|api|hf|session|refresh)[_-]?token)"""
            r"""["']?\s*[:=]\s*["']?(?P<secret>(?!\*\*\*)[^\s'",;)]{4,})""",
        ),
        ("a token", r"""(?<![\w-])token=(?P<secret>[^\s'",;&)]{8,})"""),
        ("a token", r"""\b(?:Bearer\s+|Authorization:\s*\w+\s+)(?P<secret>[\w.+/=~-]{16,})"""),
        (
            "a token",
            r"(?<![a-z0-9])(?P<secret>hf_[a-z0-9]{30,}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![a-z0-9])|gh[pousr]_[a-z0-9]{30,}"
            r"|github_pat_\w{40,})",
        ),
    )
]
# Environment variables whose values are secrets, by the end of their names, unless they are shorter: a short one may be
# an ordinary word of a log line.
_SECRET_VARIABLE = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|PASSWD|KEY_ID|CONNECTION_STRING)$", re.IGNORECASE)
_SHORTEST_VALUE = 12


def redact(text: str) -> str:
    """Return a text with `***` for every secret in it."""
    for _, value in _secret_values():
        text = text.replace(value, HIDDEN)
    for pattern, _ in _PATTERNS:
        text = pattern.sub(_hide, text)
    return text


def secret_in(text: str) -> str | None:
    """Return in words which kind of secret a text has; None if it has none."""
    for name, value in _secret_values():
        if value in text:
            return f"the value of the environment variable {name}"
    return next((kind for pattern, kind in _PATTERNS if pattern.search(text)), None)


def check_no_secret(name: str, text: str) -> None:
    """Refuse a text with a secret.

    Args:
        name: of the field or option.
        text: its value.

    Raises:
        ValueError: It has one; the message does not.
    """
    if problem := secret_problem(text):
        raise ValueError(f"{name} is {redact(text)}, {problem}")


def secret_problem(text: str) -> str | None:
    """Return what is wrong with a value that has a secret, and what to do; None if it has none."""
    kind = secret_in(text)
    if kind is None:
        return None
    remedy = CREDENTIALS.get(
        urlparse(text).scheme, "give it to the program in the environment or in its own file"
    )
    return f"which holds {kind} and would be copied to files, logs and W&B; take it out, and {remedy}"


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return redact(super().format(record))


def print_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print a traceback without secrets: the `sys.excepthook` of our commands."""
    sys.stderr.write(redact("".join(format_exception(kind, error, traceback))))


def _hide(match: re.Match[str]) -> str:
    start, end = (place - match.start() for place in match.span("secret"))
    return match[0][:start] + HIDDEN + match[0][end:]


def _secret_values() -> Iterator[tuple[str, str]]:
    """Yield name and value, as it is and as in a URL, of the environment variables that hold secrets."""
    for name, value in os.environ.items():
        is_secret = len(value) >= _SHORTEST_VALUE and _SECRET_VARIABLE.search(name)
        if is_secret and not os.path.exists(value):  # the path of a file with a key
            yield name, value
            yield name, quote(value, safe="")
