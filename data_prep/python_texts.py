"""Real text that comes with Python and the packages of this project: no download, no account.

Three streams of (id, text). Files come in the order of a hash of their path, so that the first megabytes are
a fair sample of all, the same every time. A file that is not UTF-8 comes with the text None.
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
    for path in _shuffled(packages.glob("*.dist-info/METADATA")):
        metadata = _read(path)
        description = message_from_string(metadata).get_payload() if metadata else None
        yield _name(path, packages), BADGE_LINE.sub("", str(description)) if description else None
    licences = (
        path for path in packages.glob("*.dist-info/**/*") if LICENCE_NAME.match(path.name) and path.is_file()
    )
    readmes = (path for ending in ("md", "rst") for path in packages.glob(f"*/**/*.{ending}"))
    for path in (*_shuffled(licences), *_shuffled(readmes)):
        yield _name(path, packages), _read(path)
    yield from _service_manuals(packages / "botocore" / "data")


def code_texts() -> Iterator[Text]:
    """Source files of Python's standard library, without its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in _shuffled(_python_files(library, SKIPPED_FOLDERS | SKIPPED_LIBRARY)):
        yield _name(path, library), _read(path)


def science_texts() -> Iterator[Text]:
    """Docstrings of numerical packages, one text a source file. The files are parsed, never imported."""
    folders = [folder for package in SCIENCE_PACKAGES for folder in _package_folders(package)]
    files = {path: folder.parent for folder in folders for path in _python_files(folder, SKIPPED_FOLDERS)}
    for path in _shuffled(files):
        source = _read(path)
        yield _name(path, files[path]), _docstrings(source, path) if source is not None else None


def _package_folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _python_files(folder: Path, skipped_folders: frozenset[str]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped_folders]
        # _sysconfigdata: the paths and compiler flags of this very machine
        yield from (
            Path(parent, name)
            for name in files
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        )


def _shuffled(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (hashlib.sha1("/".join(path.parts[-4:]).encode()).digest(), path))


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _docstrings(source: str, path: Path) -> str:
    """Docstrings of a module in the order of the source, each under the name of what it describes."""
    parts: list[str] = []

    def collect(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                parts.append(f"{name}\n\n{docstring}")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                collect(child, f"{name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name)

    collect(ast.parse(source), path.stem)
    return "\n\n\n".join(parts)


def _service_manuals(folder: Path) -> Iterator[Text]:
    """Manual pages of cloud services, which botocore makes its docstrings of: a page an operation."""
    latest = {path.parent.parent: path for path in sorted(folder.glob("*/*/service-2.json.gz"))}
    for path in _shuffled(latest.values()):
        service = json.loads(gzip.decompress(path.read_bytes()))
        operations = sorted(service["operations"], key=lambda name: hashlib.sha1(name.encode()).digest())
        for name in operations[:OPERATIONS_PER_SERVICE]:
            yield f"{_name(path.parent, folder)}/{name}", _manual_page(service, name)


def _manual_page(service: dict[str, Any], name: str) -> str:
    operation = service["operations"][name]
    parts = [f"{service['metadata']['serviceFullName']}: {name}", _plain(operation.get("documentation", ""))]
    members = service["shapes"][operation["input"]["shape"]]["members"] if "input" in operation else {}
    parts += [f"{member}: {_plain(about.get('documentation', ''))}" for member, about in members.items()]
    return "\n\n".join(parts)


def _plain(markup: str) -> str:
    """HTML without its tags, a paragraph a line."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</?(p|li|note|dd|dt|h\d)\b[^>]*>", "\n", markup)))
    return "\n".join(" ".join(line.split()) for line in lines.split("\n") if line.strip())
