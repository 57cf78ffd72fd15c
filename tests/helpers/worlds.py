"""A small store that is read in two phases, and the contents of its batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from modernbert_train.data.batch import PackedBatch, micro_batches
from modernbert_train.data.inputs import Inputs
from modernbert_train.data.loader import PlannedLoader, PlannedRows
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.data.skip import SkippedDocuments
from modernbert_train.objectives import IGNORE_INDEX, MaskedLM, Masking, Objective
from modernbert_train.store.manifest import Manifest, Split, TokenizerInfo
from modernbert_train.store.reading import BlockReader
from tests.helpers.stores import Documents, make_store, make_tokenizer, random_documents

STREAMS = 4
MASKED = MaskedLM(0.3)
BATCHES = [8, 8, 8, 8, 8, 4, 4, 12, 12, 12]  # rows of each step; the second phase begins at the sixth


@dataclass(frozen=True)
class World:
    """A store, its readers, and the documents it was made from: source -> documents."""

    documents: dict[str, Documents]
    manifest: Manifest
    tokenizer: TokenizerInfo
    inputs: Inputs

    @property
    def train(self) -> dict[str, Split]:
        return self.inputs.train

    def phases(self, first: Objective = MASKED) -> list[PhaseRows]:
        """Return two phases with different mixture, context and objective, over more than an epoch of each source."""
        return [
            PhaseRows(self.plan(0, 64, {"web": 0.6, "code": 0.4}), first, ((5, 8),)),
            PhaseRows(self.plan(1, 128, {"code": 1.0}), MaskedLM(0.15), ((2, 4), (3, 12))),
        ]

    def plan(self, phase: int, context_tokens: int, mixture: dict[str, float]) -> Plan:
        return Plan(
            self.train,
            mixture,
            num_streams=STREAMS,
            num_nodes=2,
            # Batches begin and end within shuffle blocks.
            shuffle_rows=5,
            context_tokens=context_tokens,
            row_tokens=256,
            key=(17, phase),
        )

    def loader(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        first: Objective = MASKED,
        skipped_steps: Sequence[range] = (),
        skipped_documents: SkippedDocuments | None = None,
    ) -> PlannedLoader:
        inputs = replace(self.inputs, skipped_documents=skipped_documents or {})
        rows = PlannedRows(
            self.phases(first), inputs, rank=rank, world_size=world_size, skipped_steps=skipped_steps
        )
        return PlannedLoader(rows, num_workers=num_workers)


def make_world(folder: Path) -> World:
    """Make the store and its inputs. The caller closes the reader."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    documents = {"web": random_documents(60, 1), "code": random_documents(40, 2, median=150)}
    sources = {name: {"train": texts} for name, texts in documents.items()}
    manifest = make_store(folder / "store", tokenizer, sources, block_documents=4, shard_bytes=2_000)
    return World(documents, manifest, tokenizer, inputs_of(manifest, tokenizer))


def inputs_of(manifest: Manifest, tokenizer: TokenizerInfo) -> Inputs:
    """Open all sources of a store, with the usual masking. The caller closes the reader."""
    train = {name: splits["train"] for name, splits in manifest.sources.items()}
    valid = {name: splits["valid"] for name, splits in manifest.sources.items() if "valid" in splits}
    reader = BlockReader([*train.values(), *valid.values()])
    return Inputs(tokenizer, Masking.of(tokenizer, 0.8, 0.1), train, reader, valid)


def texts_of(batch: PackedBatch, tokenizer: TokenizerInfo) -> Iterator[list[int]]:
    """Yield the unmasked content of every piece of a batch, in order."""
    (whole,) = micro_batches(batch, len(batch["input_ids"]), tokenizer.pad_id)
    ids, labels = whole["input_ids"].clone(), whole["labels"]
    ids[whole["target_positions"][labels != IGNORE_INDEX]] = labels[labels != IGNORE_INDEX]
    for start, stop in pairwise(whole["cu_seqlens"].tolist()):
        segment = ids[start:stop].tolist()
        if segment[0] != tokenizer.pad_id:
            yield segment[1:-1]
