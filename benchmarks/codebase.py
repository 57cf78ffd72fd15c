"""Measure the code itself, so that a change of structure can be compared before and after.

    python -m benchmarks.codebase                                      # this checkout
    python -m benchmarks.codebase --root ../other-checkout
    python -m benchmarks.codebase --trace RECIPE [key=value ...]       # modules entered before the first step
    python -m benchmarks.codebase --changes main change/norm ...       # files that each branch touches
    python -m benchmarks.codebase --texts 50 --seed 17                 # docstrings, messages and help drawn at random

The first form prints, by layer of the import contract in pyproject.toml, the lines and how many of them hold code; then
the folders with the most files and the length of functions. `--trace` runs a training up to the start of its first
step: use a tiny recipe. `--changes` counts the files that each branch changes against the first one: in the packages,
in the tests, and elsewhere. `--texts` prints a sample of what a reader or a user reads, the same one for the same seed
and code.
"""

import argparse
import ast
import io
import os
import random
import statistics
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("modernbert_train", "data_prep")
OTHERS = ("tests", "benchmarks")
FOLDERS_SHOWN = 6

# Runs in the checkout that is measured, which may have other modules than this one.
_TRACER = """
import os, sys
root, *command = sys.argv[1:]
package = os.path.join(os.path.realpath(root), "modernbert_train") + os.sep
rooms, entries = [], 0

def module_of(frame):
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(package):
            return name[len(package):]
        frame = frame.f_back
    return None

def trace(frame, event, argument):
    global entries
    name = frame.f_code.co_filename
    if event != "call" or not name.startswith(package) or frame.f_code.co_name == "<module>":
        return
    room = name[len(package):]
    if room.startswith("training/callbacks") and frame.f_code.co_name == "batch_start":
        sys.setprofile(None)
        print(f"rooms {len(set(rooms))}, entered {entries} times from another room", flush=True)
        os._exit(0)
    rooms.append(room)
    entries += module_of(frame.f_back) not in (room, None)

from modernbert_train.cli import main
sys.setprofile(trace)
main(command)
"""


def main() -> None:
    """Print what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=Path.cwd(), help="the checkout to measure (default: this folder)"
    )
    parser.add_argument("--trace", nargs="+", metavar="RECIPE", help="a recipe and its overrides")
    parser.add_argument("--changes", nargs="+", metavar="BRANCH", help="a base, then branches made from it")
    parser.add_argument(
        "--texts", type=int, metavar="N", help="print N docstrings, error messages and help texts"
    )
    parser.add_argument("--seed", type=int, default=17, help="of --texts (default: %(default)s)")
    options = parser.parse_args()
    if options.texts:
        sample_texts(options.root, options.texts, options.seed)
    elif options.trace:
        trace(options.root, options.trace)
    elif options.changes:
        changes(options.root, *options.changes)
    else:
        describe(options.root)


def describe(root: Path) -> None:
    """Print lines by layer, the largest folders and the length of functions."""
    for layer, rooms in [*layers(root), *((name, [name]) for name in OTHERS)]:
        files = [file for room in rooms for file in python_files(root / room)]
        if files:
            lines, code = sum(map(num_lines, files)), sum(map(num_code_lines, files))
            print(f"{lines:>7,} lines {code:>7,} of code {len(files):>4} files  {layer}")
    folders = Counter(
        file.parent.relative_to(root) for name in PACKAGES for file in python_files(root / name)
    )
    print("\nfolders with the most files")
    for folder, count in folders.most_common(FOLDERS_SHOWN):
        print(f"{count:>7} {folder}")
    functions = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for name in PACKAGES
        for file in python_files(root / name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    ninth = statistics.quantiles(functions, n=10)[-1]
    print(
        f"\n{len(functions):,} functions: median {statistics.median(functions):g} lines, 90th percentile {ninth:g}, "
        f"longest {max(functions)}"
    )


def layers(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each layer of the import contract, from the top, with the paths of its modules; then `data_prep`."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    for layer in contract["layers"]:
        yield layer.replace("modernbert_train.", ""), layer.replace(".", "/").split(" | ")
    yield "data_prep", ["data_prep"]


def python_files(path: Path) -> list[Path]:
    """Return the Python files of a folder and its subfolders; of a module without its ending, its file."""
    file = path.with_suffix(".py")
    return sorted(path.rglob("*.py")) if path.is_dir() else [file] if file.is_file() else []


def num_lines(file: Path) -> int:
    """Count the lines of a file."""
    return len(file.read_text(encoding="utf-8").splitlines())


def num_code_lines(file: Path) -> int:
    """Count the lines of a file that hold code: no blank lines, comments or docstrings."""
    text = file.read_text(encoding="utf-8")
    layout = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        line
        for token in tokens
        if token.type not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(code)


def trace(root: Path, arguments: Sequence[str]) -> None:
    """Print how many modules of the package are entered between `main` and the first step."""
    command = [sys.executable, "-P", "-W", "ignore", "-c", _TRACER, str(root), "train", *arguments]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=True)


def changes(root: Path, base: str, *branches: str) -> None:
    """Print how many files of the packages, of the tests and of the rest each branch changes."""
    print(f"{'packages':>8} {'tests':>6} {'rest':>5}  branch")
    for branch in branches:
        command = ["git", "-C", str(root), "diff", "--name-only", f"{base}...{branch}"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        counts = Counter(_kind(name) for name in names)
        print(f"{counts['packages']:>8} {counts['tests']:>6} {counts['rest']:>5}  {branch}")


def _kind(name: str) -> str:
    top = name.split("/")[0]
    return "packages" if top in PACKAGES else "tests" if top == "tests" else "rest"


def sample_texts(root: Path, count: int, seed: int) -> None:
    """Print docstrings, error messages and help texts of the packages, drawn at random."""
    texts = [text for name in PACKAGES for file in python_files(root / name) for text in _texts(file, root)]
    for place, text in sorted(random.Random(seed).sample(texts, count)):
        print(f"{place}: {' '.join(text.split())}")


def _texts(file: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield place and text of every docstring, `raise` with a message and `help=` of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        line, text = getattr(node, "lineno", 1), None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = ast.unparse(node.exc.args[0])
        elif isinstance(node, ast.keyword) and node.arg == "help":
            line, text = node.value.lineno, ast.unparse(node.value)
        if text:
            yield f"{file.relative_to(root)}:{line}", text


if __name__ == "__main__":
    main()
