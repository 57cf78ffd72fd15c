"""Real text from the installed Python and the packages of this project: no download, no account.

Three streams of (id, text). Files are sorted by a hash of their path, so that the first megabytes are a fair sample,
the same every time. The text of an unreadable file is None.
"""

import ast
import gzip
import hashlib
import html
import importlib.util
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from email import message_from_string
from pathlib import Path
from typing import Any

Text = tuple[str, str | None]

SCIENCE_PACKAGES = (
    "numpy", "scipy", "pandas", "sklearn", "statsmodels", "sympy", "mpmath", "networkx", "torch",
    "torchmetrics",
)  # fmt: skip
SKIPPED_FOLDERS = frozenset(
    ("__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "testing")
)
# encodings are tables in the form of code; the topics in pydoc_data belong to the prose
SKIPPED_LIBRARY = frozenset(("encodings", "pydoc_data"))
LICENCE_NAME = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)", re.IGNORECASE)
BADGE_LINE = re.compile(r"^\s*(\[?!\[|<img|<a |</?p\b|\.\. (image|\|)|:target:|:alt:).*\n", re.MULTILINE)
OPERATIONS_PER_SERVICE = 20  # pages per AWS service: some have 700 and would dominate the corpus


def prose_texts() -> Iterator[Text]:
    """Yield help topics of Python, descriptions, licences and READMEs of packages, and manual pages of AWS."""
    from pydoc_data.topics import topics

    yield from ((f"topic/{name}", text) for name, text in sorted(topics.items()))
    packages = Path(sysconfig.get_path("purelib"))
    for name, path in _shuffled(packages, packages.glob("*.dist-info/METADATA")):
        metadata = _read(path)
        description = message_from_string(metadata).get_payload() if metadata else None
        yield name, BADGE_LINE.sub("", str(description)) if description else None
    in_metadata = (path for path in packages.glob("*.dist-info/**/*") if path.is_file())
    licences = (path for path in in_metadata if LICENCE_NAME.match(path.name))
    readmes = (path for ending in ("md", "rst") for path in packages.glob(f"*/**/*.{ending}"))
    for name, path in (*_shuffled(packages, licences), *_shuffled(packages, readmes)):
        yield name, _read(path)
    for folder in _package_folders("botocore"):
        yield from _service_manuals(folder / "data")


def code_texts() -> Iterator[Text]:
    """Yield the source files of Python's standard library, without its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    for name, path in _shuffled(library, _python_files(library, SKIPPED_FOLDERS | SKIPPED_LIBRARY)):
        yield name, _read(path)


def science_texts() -> Iterator[Text]:
    """Yield the docstrings of numerical packages, one text per source file, parsed without importing it."""
    folders = [folder for package in SCIENCE_PACKAGES for folder in _package_folders(package)]
    files = [
        (_name(folder.parent, path), path)
        for folder in folders
        for path in _python_files(folder, SKIPPED_FOLDERS)
    ]
    for name, path in sorted(files, key=lambda file: _digest(file[0])):
        source = _read(path)
        yield name, docstrings_of(source, path.stem) if source is not None else None


def _package_folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _python_files(folder: Path, skipped_folders: frozenset[str]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped_folders]
        python = (name for name in files if name.endswith(".py"))
        # _sysconfigdata holds paths and compiler flags of this machine
        yield from (Path(parent, name) for name in python if not name.startswith("_sysconfigdata"))


def _shuffled(root: Path, paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Sort paths by a hash of their name relative to `root`, which does not depend on where the root is."""
    return sorted(((_name(root, path), path) for path in paths), key=lambda file: _digest(file[0]))


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _digest(name: str) -> bytes:
    return hashlib.sha1(name.encode("utf-8", "surrogateescape")).digest()


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def docstrings_of(source: str, module: str) -> str | None:
    """Extract the docstrings of a module, each preceded by the name of its class or function.

    Args:
        source: of the module.
        module: its name.

    Returns:
        The docstrings in the order of the source; None for syntax of a newer Python.
    """
    parts: list[str] = []

    def collect(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                parts.append(f"{name}\n\n{docstring}")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                collect(child, f"{name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name)

    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes in third-party code
            tree = ast.parse(source)
    except SyntaxError:
        return None
    collect(tree, module)
    return "\n\n\n".join(parts)


def _service_manuals(folder: Path) -> Iterator[Text]:
    """Yield the manual pages of cloud services from botocore's data, one per operation."""
    latest = {path.parent.parent: path for path in sorted(folder.glob("*/*/service-2.json.gz"))}
    for file_name, path in _shuffled(folder, latest.values()):
        service = json.loads(gzip.decompress(path.read_bytes()))
        for operation in sorted(service["operations"], key=_digest)[:OPERATIONS_PER_SERVICE]:
            yield f"aws/{file_name}/{operation}", _manual_page(service, operation)


def _manual_page(service: dict[str, Any], name: str) -> str:
    operation = service["operations"][name]
    parts = [
        f"{service['metadata']['serviceFullName']}: {name}",
        plain_text(operation.get("documentation", "")),
    ]
    members = service["shapes"][operation["input"]["shape"]]["members"] if "input" in operation else {}
    parts += [f"{member}: {plain_text(about.get('documentation', ''))}" for member, about in members.items()]
    return "\n\n".join(parts)


def plain_text(markup: str) -> str:
    """Remove the tags of HTML; each paragraph becomes a line."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</?(p|li|note|dd|dt|h\d)\b[^>]*>", "\n", markup)))
    return "\n".join(" ".join(line.split()) for line in lines.split("\n") if line.strip())
