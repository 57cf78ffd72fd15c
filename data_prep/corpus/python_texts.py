"""Real text that comes with Python and the packages of this project: no download, no account.

Three streams of (id, text). Files come in the order of a hash of their path, so that the first megabytes are
a fair sample of all, the same every time. A file that cannot be read comes with the text None.
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
SKIPPED_LIBRARY = frozenset(("encodings", "pydoc_data"))  # tables in the shape of code; the topics are prose
LICENCE_NAME = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)", re.IGNORECASE)
BADGE_LINE = re.compile(r"^\s*(\[?!\[|<img|<a |</?p\b|\.\. (image|\|)|:target:|:alt:).*\n", re.MULTILINE)
OPERATIONS_PER_SERVICE = 20  # of the AWS manuals: some services have 700, and would be all there is


def prose_texts() -> Iterator[Text]:
    """Help topics of Python, descriptions, licences and readmes of packages, manual pages of AWS."""
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
    """Source files of Python's standard library, without its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    for name, path in _shuffled(library, _python_files(library, SKIPPED_FOLDERS | SKIPPED_LIBRARY)):
        yield name, _read(path)


def science_texts() -> Iterator[Text]:
    """Docstrings of numerical packages, one text a source file. The files are parsed, never imported."""
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
        # _sysconfigdata: the paths and compiler flags of this very machine
        yield from (Path(parent, name) for name in python if not name.startswith("_sysconfigdata"))


def _shuffled(root: Path, paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """The paths with their names below `root`, in the order of a hash of the name: wherever the root lies."""
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
    """Docstrings of a module in the order of the source, each under the name of what it describes.

    None for source in the syntax of a newer Python.
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
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes in code that is not ours
            tree = ast.parse(source)
    except SyntaxError:
        return None
    collect(tree, module)
    return "\n\n\n".join(parts)


def _service_manuals(folder: Path) -> Iterator[Text]:
    """Manual pages of cloud services, which botocore makes its docstrings of: a page an operation."""
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
    """HTML without its tags, a paragraph a line."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</?(p|li|note|dd|dt|h\d)\b[^>]*>", "\n", markup)))
    return "\n".join(" ".join(line.split()) for line in lines.split("\n") if line.strip())
