"""Opens the tokenizer and stores of a recipe, and reports every mismatch before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from modernbert_train.common.text import did_you_mean
from modernbert_train.config import DataConfig, Recipe
from modernbert_train.config.cache import new_cache, open_cache
from modernbert_train.config.skip import format_range
from modernbert_train.data.mixture import resolve_shares
from modernbert_train.data.plan import PhaseRows, Plan
from modernbert_train.data.skip import SkippedDocuments, load_skipped_documents
from modernbert_train.objectives import Masking
from modernbert_train.schedule import RunSchedule
from modernbert_train.store.manifest import Manifest, Split, TokenizerInfo, load_tokenizer_info
from modernbert_train.store.opening import open_store, open_tokenizer
from modernbert_train.store.published_tokenizer import tokenizer_problems
from modernbert_train.store.reading import BlockReader
from modernbert_train.store.split import comes_through_cache


@dataclass(frozen=True)
class Inputs:
    """Everything that rows are read with: tokenizer, masking, splits and their reader."""

    tokenizer: TokenizerInfo
    masking: Masking
    # Source -> training split.
    train: dict[str, Split]
    reader: BlockReader
    # Source -> held-out split, for sources that have one.
    valid: dict[str, Split] = field(default_factory=dict)
    # Documents of the training splits that are not trained on.
    skipped_documents: SkippedDocuments = field(default_factory=dict)
    # Store, as the recipe names it -> its manifest.
    manifests: dict[str, Manifest] = field(default_factory=dict)


def open_inputs(recipe: Recipe) -> Inputs:
    """Open the tokenizer and the stores of all sources.

    Args:
        recipe: A valid recipe.

    Returns:
        The inputs; close their reader after use.

    Raises:
        ValueError: The tokenizer, the stores or the recipe do not fit together; the message lists all problems.
    """
    cache = open_cache(recipe.data)
    tokenizer = load_tokenizer_info(open_tokenizer(recipe.data.tokenizer, cache))
    problems = tokenizer_problems(tokenizer, is_tokenized=True)
    if tokenizer.num_ids > recipe.model.vocab_size:
        problems.append(
            f"model.vocab_size is {recipe.model.vocab_size:,}, too small for the tokenizer {recipe.data.tokenizer} "
            f"with {tokenizer.num_ids:,} ids; set it to {tokenizer.vocab_size:,}"
        )
    manifests: dict[str, Manifest] = {}
    train, valid = {}, {}
    for name, source in recipe.data.sources.items():
        if source.store not in manifests:
            manifests[source.store] = open_store(source.store, _sources_in(source.store, recipe.data), cache)
            problems += _tokenizer_problems(manifests[source.store], tokenizer, recipe.data.tokenizer)
        splits = manifests[source.store].sources.get(source.source or name)
        if splits is None or "train" not in splits:
            problems.append(_missing_source(name, source.source or name, manifests[source.store]))
            continue
        train[name] = splits["train"]
        if "valid" in splits:
            valid[name] = splits["valid"]
    if problems:
        raise ValueError("\n".join(problems))
    masking = Masking.of(tokenizer, recipe.masking.mask_fraction, recipe.masking.random_fraction)
    skipped_documents = load_skipped_documents(recipe.data.skip, train)
    read = [*train.values(), *valid.values()]
    if cache is None and any(comes_through_cache(split) for split in read):
        cache = new_cache(recipe.data)
    return Inputs(
        tokenizer,
        masking,
        train,
        BlockReader(read, cache, tokenizer.num_ids),
        valid,
        skipped_documents,
        manifests,
    )


def _sources_in(store: str, data: DataConfig) -> set[str]:
    """Return the names, within a store, of the sources that the recipe reads."""
    return {source.source or name for name, source in data.sources.items() if source.store == store}


def plan_rows(recipe: Recipe, schedule: RunSchedule, inputs: Inputs) -> list[PhaseRows]:
    """Return what each phase of the run reads."""
    tokens = {name: split.num_tokens for name, split in inputs.train.items()}
    return [
        PhaseRows(
            plan=Plan(
                inputs.train,
                resolve_shares(phase.config.mixture, tokens),
                num_streams=recipe.data.num_streams,
                num_nodes=recipe.data.num_canonical_nodes,
                shuffle_rows=recipe.data.shuffle_rows,
                context_tokens=phase.config.context_tokens,
                row_tokens=phase.config.row_tokens,
                # The name, not the index: a phase that is run alone reads what it reads in the whole run.
                key=(recipe.seed, phase.name),
            ),
            objective=phase.objective,
            steps=tuple((step_range.num_steps, step_range.batch_rows) for step_range in phase.step_ranges),
        )
        for phase in schedule.phases
    ]


def describe_skipped(schedule: RunSchedule, inputs: Inputs) -> dict[str, list[str]]:
    """Return all skipped steps and documents in the syntax of a recipe."""
    steps = [format_range(range(part.start + 1, part.stop + 1)) for part in schedule.skipped]
    documents = [
        f"{source}:{format_range(range(first, stop))}"
        for source, ranges in inputs.skipped_documents.items()
        for first, stop in ranges.tolist()
    ]
    return {"steps": steps, "documents": documents}


def _tokenizer_problems(manifest: Manifest, tokenizer: TokenizerInfo, path: str) -> list[str]:
    if manifest.tokenizer_fingerprint == tokenizer.fingerprint:
        return []
    return [
        f"data.tokenizer is {path} (fingerprint {tokenizer.fingerprint[:12]}), but the store {manifest.path} was made "
        f"with another tokenizer (fingerprint {manifest.tokenizer_fingerprint[:12]}); use the copy of that tokenizer "
        "in the store, or tokenize again with yours"
    ]


def _missing_source(name: str, in_store: str, manifest: Manifest) -> str:
    return (
        f'data.sources.{name}: the store {manifest.path} has no source "{in_store}" with a train split; '
        f"it has {', '.join(manifest.sources)}{did_you_mean(in_store, list(manifest.sources))}"
    )
