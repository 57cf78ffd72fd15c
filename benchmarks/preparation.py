"""Speed of the whole preparation compared with bare tokenizing, on the same text.

    python benchmarks/preparation.py --tokenizer TOKENIZER 'web=/data/web/*.jsonl.gz' code=/data/code.parquet

"bare" is `tokenizers.encode_batch` on texts in memory, on one core, without reading or writing. "prepared by N" is
`python -m data_prep tokenize --workers N` from start to end: imports, reading, hashing, shards, merging. Every
measurement runs in its own process. "cpu" divides by the CPU seconds of all its processes (robust on a busy machine),
"wall" by elapsed seconds.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import sys
from data_prep.tokenize.encoding import batched, load_tokenizer
from data_prep.inputs.files import resolve_inputs
from data_prep.inputs.readers import LeftOut, read_texts
from data_prep.inputs.rows import Span
import json, os, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
tokenizer_json, patterns = json.loads(sys.argv[1])
items = resolve_inputs(patterns).items
texts = (text for item in items for text in read_texts(Span(item)))
batches = [batch.texts for batch in batched(texts, LeftOut())]
tokenizer = load_tokenizer(tokenizer_json)
started, cpu = time.perf_counter(), time.process_time()
tokens = 0
for batch in batches:
    tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch(batch, add_special_tokens=False))
print(json.dumps([tokens, time.process_time() - cpu, time.perf_counter() - started]))
"""


def measure_bare(tokenizer: Path, inputs: list[str]) -> tuple[int, float, float]:
    """Return tokens, CPU seconds and elapsed seconds of encode_batch alone."""
    patterns = [pattern for entry in inputs for pattern in entry.partition("=")[2].split(",")]
    arguments = json.dumps([str(tokenizer / "tokenizer.json"), patterns])
    done = subprocess.run([sys.executable, "-c", BARE, arguments], check=True, capture_output=True, text=True)
    tokens, cpu_s, wall_s = json.loads(done.stdout)
    return tokens, cpu_s, wall_s


def measure_prepared(
    tokenizer: Path, inputs: list[str], workers: int, store: Path
) -> tuple[int, float, float]:
    """Return tokens, CPU seconds of all processes and elapsed seconds of a preparation."""
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "data_prep", "tokenize", str(store), "--tokenizer", str(tokenizer)]
    command += ["--workers", str(workers), "--input", *inputs]
    before, started = _children_cpu_s(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall_s = time.perf_counter() - started
    sources = json.loads((store / "manifest.json").read_text())["sources"].values()
    tokens = sum(split["num_tokens"] for source in sources for split in source["splits"].values())
    return tokens, _children_cpu_s() - before, wall_s


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print a row per measurement, relative to bare tokenizing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", nargs="+", metavar="SOURCE=GLOB[,GLOB]")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="repetitions; the best is shown (default: 2)")
    options = parser.parse_args()
    figures: dict[str, list[tuple[int, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            figures.setdefault("bare", []).append(measure_bare(options.tokenizer, options.input))
            for workers in options.workers:
                measured = measure_prepared(options.tokenizer, options.input, workers, Path(folder, "store"))
                figures.setdefault(f"prepared by {workers}", []).append(measured)
    load = os.getloadavg()[0]
    peak_megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{'':<16}{'tokens':>14}{'cpu tokens/s':>14}{'to bare':>9}{'wall tokens/s':>15}{'to bare':>9}")
    cpu_bare = wall_bare = 0.0
    for name, rounds in figures.items():
        cpu = max(tokens / cpu_s for tokens, cpu_s, _ in rounds)
        wall = max(tokens / wall_s for tokens, _, wall_s in rounds)
        cpu_bare, wall_bare = cpu_bare or cpu, wall_bare or wall
        print(
            f"{name:<16}{rounds[0][0]:>14,}{cpu:>14,.0f}{cpu / cpu_bare:>9.2f}{wall:>15,.0f}{wall / wall_bare:>9.2f}"
        )
    print(
        f"load of the machine: {load:.1f} on {os.cpu_count()} cores; largest process: {peak_megabytes:,} MB"
    )


if __name__ == "__main__":
    main()
