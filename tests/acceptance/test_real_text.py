"""One epoch over real text, from files to batches: every token appears exactly once, in its own document."""

import gzip
import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from data_prep.cli import main as prepare
from modernbert_train.store.manifest import load_manifest, load_tokenizer_info
from tests.helpers.epochs import pieces_of, plan_of_an_epoch, read_epoch
from tests.helpers.texts import stored_documents

ROW_TOKENS = 8_192
SHARED = Path(__file__).parents[3] / "shared/data"


def check_epoch(store: Path, context_tokens: int) -> tuple[float, int, list[int]]:
    """Compare the pieces of all batches with the documents in the shards, read by Streaming itself and cut slowly.

    Returns the fill of the rows, the number of rows beyond the minimum, and the content tokens of every document.
    """
    manifest, tokenizer = load_manifest(store), load_tokenizer_info(store)
    plan = plan_of_an_epoch(manifest, context_tokens, ROW_TOKENS)
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

    shuffle_block = plan.shuffle_block(0, 0)
    used = tokens_out + 2 * num_pieces
    assert used == shuffle_block.slots_used()
    fill = used / (shuffle_block.num_rows * ROW_TOKENS)
    needed = -(-used // ROW_TOKENS)
    print(
        f"context {context_tokens:,}: {len(document_lengths):,} documents, {tokens_out:,} tokens in and out, "
        f"{num_pieces:,} pieces, {shuffle_block.num_rows:,} rows ({needed:,} needed), {batches:,} micro-batches, "
        f"fill {fill:.4%}"
    )
    return fill, shuffle_block.num_rows - needed, document_lengths


def tokenize(store: Path, tokenizer: Path, inputs: dict[str, list[Path]]) -> None:
    """Tokenize everything into the train split; check that every line has become a document."""
    sources = [f"{source}={','.join(map(str, files))}" for source, files in inputs.items()]
    options = ["--tokenizer", str(tokenizer), "--workers", "2", "--valid-fraction", "0"]
    assert prepare(["tokenize", str(store), *options, "--input", *sources]) == 0
    manifest = load_manifest(store)
    for source, files in inputs.items():
        lines = 0
        for file in files:
            with gzip.open(file) as opened:
                lines += sum(1 for line in opened if line.strip())
        assert (
            manifest.sources[source]["train"].num_documents + sum(manifest.left_out[source].values()) == lines
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A store of text from this Python installation."""
    folder = tmp_path_factory.mktemp("installed")
    assert prepare(["corpus", str(folder / "corpus"), "--megabytes", "1.5"]) == 0
    files = str(folder / "corpus/*.jsonl.gz")
    assert prepare(["tokenizer", str(folder / "tokenizer"), "--input", files, "--vocab-size", "2000"]) == 0
    inputs = {source: [folder / f"corpus/{source}.jsonl.gz"] for source in ("prose", "code", "science")}
    tokenize(folder / "store", folder / "tokenizer", inputs)
    return folder / "store"


@pytest.mark.parametrize("context_tokens", [1_024, 8_192])
def test_an_epoch_over_text_of_this_installation(installed, context_tokens):
    _, wasted_rows, lengths = check_epoch(installed, context_tokens)
    assert max(lengths) > context_tokens  # some documents are cut
    assert wasted_rows <= 1  # not a fraction: with only about 200 rows, it would depend on the last one


def has_text(file: Path) -> bool:
    """Return whether the file belongs to a corpus, not to an evaluation set or a set of queries."""
    with gzip.open(file) as lines:
        return not file.parent.name.startswith("eval_") and "text" in json.loads(next(lines))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")
def test_an_epoch_over_the_shared_corpora(tmp_path):
    files = [path for path in sorted(SHARED.glob("*/*.jsonl.gz")) if has_text(path)]
    corpora = sorted({path.parent.name for path in files})
    assert {"code", "wiki", "web_gov", "sci_arxiv", "long_books"} <= set(corpora)
    store = tmp_path / "store"
    inputs = {name: [path for path in files if path.parent.name == name] for name in corpora}
    tokenize(store, SHARED / "tokenizer", inputs)
    assert load_manifest(store).vocab_size == 50_368
    for context_tokens in (1_024, 8_192):
        fill, _, lengths = check_epoch(store, context_tokens)
        assert max(lengths) > context_tokens
        assert fill >= 0.999
