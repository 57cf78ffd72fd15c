"""One epoch over real text, from files to batches: every token that goes in comes out, once, in its own document."""

import gzip
from collections import Counter
from contextlib import closing
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main as prepare
from modernbert_train.data.batch import MicroBatch, micro_batches
from modernbert_train.data.loader import PhaseRows, PlannedLoader, PlannedRows
from modernbert_train.data.manifest import Manifest, TokenizerInfo, load_manifest, load_tokenizer_info
from modernbert_train.data.masking import IGNORED, Masking
from modernbert_train.data.plan import Plan
from modernbert_train.data.reader import BlockReader
from tests.data_prep.documents import stored_documents

ROW_TOKENS = 8_192
SHARED = Path(__file__).parents[3] / "shared/data"


def plan_of_an_epoch(manifest: Manifest, context_tokens: int) -> Plan:
    """All sources in proportion to their size, one stream, one window: exactly one pass over the store."""
    splits = {name: splits["train"] for name, splits in manifest.sources.items()}
    total = sum(split.num_tokens for split in splits.values())
    mixture = {name: split.num_tokens / total for name, split in splits.items()}
    return Plan(
        splits,
        mixture,
        streams=1,
        window_rows=total,
        context_tokens=context_tokens,
        row_tokens=ROW_TOKENS,
        key=(17, 0),
    )


def read_epoch(plan: Plan, tokenizer: TokenizerInfo, batch_rows: int = 16):
    """The micro-batches of the epoch as the trainer gets them, through a worker process."""
    num_rows = plan.window(0, 0).num_rows
    steps = tuple(
        part for part in ((num_rows // batch_rows, batch_rows), (1, num_rows % batch_rows)) if all(part)
    )
    masking = Masking.of(tokenizer, 0.8, 0.1)
    with closing(BlockReader(plan.sources.values())) as reader:
        phase = PhaseRows(plan, 0.3, steps)
        rows = PlannedRows([phase], reader, tokenizer, masking, rank=0, world_size=1)
        for packed in PlannedLoader(rows, num_workers=1):
            yield from micro_batches(packed, rows=4, pad_id=tokenizer.pad_id)


def pieces_of(batch: MicroBatch, tokenizer: TokenizerInfo, context_tokens: int) -> list[np.ndarray]:
    """Content of every segment that is no padding, masks undone; each must be [CLS] content [SEP] within the context."""
    ids, labels = batch["input_ids"].clone(), batch["labels"]
    ids[batch["masked_positions"][labels != IGNORED]] = labels[labels != IGNORED]
    tokens, bounds = ids.numpy(), batch["cu_seqlens"].numpy()
    assert (bounds[0], bounds[-1]) == (0, len(tokens))
    lengths = np.diff(bounds)
    assert lengths.min() > 0
    assert lengths.max() <= context_tokens == batch["max_seqlen"]
    assert np.array_equal(
        batch["position_ids"].numpy(), np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
    )
    segments = [tokens[start:stop] for start, stop in pairwise(bounds)]
    real = [segment for segment in segments if segment[0] != tokenizer.pad_id]
    assert all(segment[0] == tokenizer.cls_id and segment[-1] == tokenizer.sep_id for segment in real)
    assert sum(map(len, real)) == batch["num_tokens"]
    # No other special token anywhere: no second document in a segment, no padding within one.
    num_specials = np.isin(tokens, tokenizer.special_ids).sum()
    assert num_specials == 2 * len(real) + len(tokens) - batch["num_tokens"]
    return [segment[1:-1] for segment in real]


def check_epoch(store: Path, context_tokens: int) -> tuple[float, float, list[int]]:
    """Compare the pieces of all batches with the documents in the shards, read by Streaming's own reader and cut slowly.

    Returns fill of all rows, fill of all but the emptiest row, and content tokens of every document.
    """
    manifest, tokenizer = load_manifest(store), load_tokenizer_info(store)
    plan = plan_of_an_epoch(manifest, context_tokens)
    batches = 0
    found: Counter[bytes] = Counter()
    for batch in read_epoch(plan, tokenizer):
        batches += 1
        found.update(piece.astype("<u4").tobytes() for piece in pieces_of(batch, tokenizer, context_tokens))
    num_pieces, tokens_out = found.total(), sum(len(piece) // 4 * count for piece, count in found.items())

    document_lengths = []
    piece_tokens = context_tokens - 2
    for document in chain.from_iterable(stored_documents(split.path) for split in plan.sources.values()):
        document_lengths.append(len(document))
        content = document.astype("<u4")
        for start in range(0, len(content), piece_tokens):
            found[content[start : start + piece_tokens].tobytes()] -= 1
    lost_or_doubled = [count for count in found.values() if count]
    assert lost_or_doubled == []
    assert tokens_out == sum(document_lengths) == sum(split.num_tokens for split in plan.sources.values())

    window = plan.window(0, 0)
    used = np.add.reduceat(window.piece_tokens + 2, window.row_first[:-1])
    assert used.sum() == window.slots_used() == tokens_out + 2 * num_pieces
    fill = used.sum() / (window.num_rows * ROW_TOKENS)
    full = (used.sum() - used.min()) / max(1, (window.num_rows - 1) * ROW_TOKENS)
    print(
        f"context {context_tokens:,}: {len(document_lengths):,} documents, {tokens_out:,} tokens, {num_pieces:,} pieces, "
        f"{window.num_rows:,} rows, {batches:,} micro-batches, fill {fill:.4%} ({full:.4%} without the emptiest row)"
    )
    return fill, full, document_lengths


def tokenize(store: Path, tokenizer: Path, inputs: dict[str, str]) -> None:
    """Everything into the train split; as many documents as the files have lines."""
    sources = [f"{source}={files}" for source, files in inputs.items()]
    options = ["--tokenizer", str(tokenizer), "--workers", "2", "--valid-fraction", "0"]
    assert prepare(["tokenize", str(store), *options, "--input", *sources]) == 0
    manifest = load_manifest(store)
    for source, files in inputs.items():
        lines = 0
        for file in Path(files).parent.glob(Path(files).name):
            with gzip.open(file, "rb") as opened:
                lines += sum(1 for line in opened if line.strip())
        assert manifest.sources[source]["train"].num_documents + manifest.skipped_empty[source] == lines


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A store of text that this Python installation holds."""
    folder = tmp_path_factory.mktemp("installed")
    assert prepare(["corpus", str(folder / "corpus"), "--megabytes", "1.5"]) == 0
    files = str(folder / "corpus/*.jsonl.gz")
    assert prepare(["tokenizer", str(folder / "tokenizer"), "--input", files, "--vocab-size", "2000"]) == 0
    inputs = {source: f"{folder}/corpus/{source}.jsonl.gz" for source in ("prose", "code", "science")}
    tokenize(folder / "store", folder / "tokenizer", inputs)
    return folder / "store"


@pytest.mark.parametrize("context_tokens", [1_024, 8_192])
def test_an_epoch_over_text_of_this_installation(installed, context_tokens):
    _, full, lengths = check_epoch(installed, context_tokens)
    assert max(lengths) > context_tokens  # there was something to cut
    assert full >= 0.999  # so few rows that the last one, which is left over, weighs much


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")
def test_an_epoch_over_the_shared_corpora(tmp_path):
    corpora = {
        path.parent.name for path in SHARED.glob("*/*.jsonl.gz") if not path.parent.name.startswith("eval_")
    }
    assert corpora >= {"code", "wiki", "web_gov", "sci_arxiv"}
    store = tmp_path / "store"
    tokenize(store, SHARED / "tokenizer", {name: f"{SHARED}/{name}/*.jsonl.gz" for name in sorted(corpora)})
    assert load_manifest(store).vocab_size == 50_368
    for context_tokens in (1_024, 8_192):
        fill, _, lengths = check_epoch(store, context_tokens)
        assert max(lengths) > context_tokens
        assert fill >= 0.999
