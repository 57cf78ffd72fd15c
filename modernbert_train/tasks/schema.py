"""The fields of a suite of tasks: the reference page of `yamls/evaluation/*.yaml`.

A suite names tasks. A task says which rows it has, what is predicted, how a model is fine-tuned on it and which score
counts. `suite.py` fills the dataclasses from YAML and the command line; fields under `defaults` hold for every task
that does not set them itself.

- Quantities are written as in recipes: `max_tokens: 8_192`, `train_rows: 10000`.
- Paths of files are relative to `folder`, which is the folder of the YAML file unless it is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modernbert_train.config.schema import Device, Precision

Kind = Literal["classification", "regression", "tokens", "retrieval"]
Metric = Literal[
    "auto", "accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman", "span_f1", "ndcg@10"
]
Pooling = Literal["mean", "cls"]
Keep = Literal["best", "last"]
Engine = Literal["auto", "packed", "padded"]
RateSchedule = Literal["linear", "constant"]


# The class of a word that belongs to no span.
OUTSIDE = "O"


def have_spans(labels: Sequence[str]) -> bool:
    """Check whether classes mark spans: `B-X` for the first word, `I-X` for those that follow, `O` outside."""
    return OUTSIDE in labels and all(name == OUTSIDE or name.startswith(("B-", "I-")) for name in labels)


@dataclass(frozen=True)
class FilesConfig:
    """Files of rows: JSONL, TSV or CSV, each also as .gz or .zst, or parquet."""

    # Rows to train on.
    train: str = ""
    # Valid set -> its rows. Written as one path, it is the set `valid`; as a list of paths, each is a set named after
    # its file.
    valid: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitsConfig:
    """Splits of a dataset of the Hugging Face hub."""

    train: str = "train"
    # Valid set -> its split. Written as one split or a list of splits, each is a set of its own name; `validation`
    # where it is left out.
    valid: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitConfig:
    """A split of our own: all rows, of train and valid together, are divided anew, in whole groups."""

    # Rows with the same text in this column stay together; null: each row is a group of its own.
    group_by: str | None = None
    # Share of the groups that is held out, as the valid set `valid`.
    valid_fraction: float = 0.1
    # Of the random choice of groups.
    seed: int = 0


@dataclass(frozen=True)
class RetrievalConfig:
    """What `modernbert retrieve` needs beside the fields of a task.

    A task of kind retrieval trains on the rows of `files.train` or of the hub, whose columns `text` names: query,
    document that answers it, and, if there are any, documents that do not (a text, or a list of texts). It is scored on
    the pairs of `files.valid`, of which every document is searched; or on what is named here.
    """

    # Documents to search, queries, and which documents are relevant to which query: files of a BEIR collection. Without
    # qrels, each query names its document in a column `doc`.
    corpus: str | None = None
    queries: str | None = None
    qrels: str | None = None
    # Tasks of mteb (`SciFact`, `MultiLongDocRetrieval/en`: one subset) and benchmarks (`BEIR`), from the hub.
    mteb: list[str] = field(default_factory=list)
    # Tasks of this suite to train on, or to be scored on; empty: this one.
    train_on: list[str] = field(default_factory=list)
    evaluate_on: list[str] = field(default_factory=list)

    # One vector per token and MaxSim (ColBERT), not one per text and their cosine.
    multi_vector: bool = False
    # Numbers in a vector of a token.
    dimension: int = 128
    # Queries are cut to this many tokens, documents to max_tokens; null: to max_tokens, too.
    query_tokens: int | None = None
    # Steps of training instead of `epochs`; 0: the model is scored as it is.
    steps: int | None = None
    # Negatives of each training row without any: documents of the training rows from these ranks of BM25. 0: none but
    # the other documents of the batch.
    hard_negatives: int = 1
    negative_ranks: tuple[int, int] = (10, 50)
    # Scores are multiplied by this in the softmax of the loss; null: 20, or 1 with multi_vector.
    scale: float | None = None
    # Of a task of kind regression with two texts: cosent (order of the pairs) or cosine (squared distance).
    pair_loss: Literal["cosent", "cosine"] = "cosent"
    # Also score BM25 and the cosine of TF-IDF.
    baselines: bool = False


@dataclass(frozen=True)
class GridConfig:
    """Settings that a benchmark tries in every combination; an empty list stands for the task's own value."""

    learning_rate: list[float] = field(default_factory=list)
    weight_decay: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    batch_size: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class TaskConfig:
    """A task, and the settings under which a model is fine-tuned on it."""

    # classification: a class for each row. regression: a number for each row. tokens: a class for each word. retrieval:
    # documents for each query.
    kind: Kind = "classification"
    # Columns with the text of a row: one, or two for a pair of texts. Tokens: the column with the list of words.
    # Retrieval: query, document, and negatives if there are any.
    text: list[str] = field(default_factory=list)
    # Column with the label. Classification: a name of `labels` or its number, from 0. Tokens: a list of these.
    label: str = "label"
    # Names of the classes, in the order of their numbers.
    labels: list[str] = field(default_factory=list)
    # Rows in files; or in a dataset of the Hugging Face hub (`nyu-mll/glue`).
    files: FilesConfig = field(default_factory=FilesConfig)
    hub: str | None = None
    # Of the hub's dataset: its configuration (`mnli`), commit or tag, and splits.
    config: str | None = None
    revision: str | None = None
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    # Divide the rows anew; null: use the splits as they are.
    split: SplitConfig | None = None
    # Train on (score) the first rows of a random order only; null: all.
    train_rows: int | None = None
    valid_rows: int | None = None
    # Fields of `modernbert retrieve`; null: their defaults.
    retrieval: RetrievalConfig | None = None
    # The score that decides which weights are best, and that stands in tables. auto: accuracy, spearman or ndcg@10, as
    # the kind asks for; for tokens span_f1 if the labels are B-X, I-X and O, else accuracy.
    metric: Metric = "auto"
    # Name of the task of this suite from whose fine-tuned model this one starts; its classifier is new.
    start_from: str | None = None

    # Peak of the learning rate.
    learning_rate: float = 5e-5
    # Share of a weight that a step at the peak removes: decoupled, as in recipes. (5e-6 at a peak of 5e-5 is 0.1 in
    # torch's AdamW.)
    weight_decay: float = 1e-5
    # Passes over the rows.
    epochs: float = 3.0
    # Rows of a step.
    batch_size: int = 32
    # Texts are cut to this many tokens, [CLS] and [SEP] included; never more than the model can read.
    max_tokens: int = 512
    # Rows of a step are computed in parts of at most this many tokens (a longer row alone); only memory depends on it.
    micro_batch_tokens: int = 16_384
    # Share of the steps in which the rate rises from 0 to its peak.
    warmup: float = 0.1
    # After the warmup: linear to 0, or constant.
    schedule: RateSchedule = "linear"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    # Longest norm of the gradient; null: any.
    gradient_clip_norm: float | None = 1.0
    # What stands for a text: the mean of its tokens, or [CLS]. Packed engine; others pool as their class does.
    pooling: Pooling = "mean"
    # Dropout before the classifier.
    classifier_dropout: float = 0.0
    # Weights that are written and scored: of the best evaluation, or of the last one.
    keep: Keep = "best"
    # Stop after this many evaluations in a row that were not better than the best; null: never.
    patience: int | None = None
    evaluate_per_epoch: int = 1
    # Settings that a benchmark tries; the table has the best of them, by its mean over the seeds.
    grid: GridConfig = field(default_factory=GridConfig)
    # Seeds of a benchmark: initial classifier, order of the rows, dropout.
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    # Seed of one job; null: the first of `seeds`.
    seed: int | None = None
    # Start from random weights of the same architecture: what a model reaches without pretraining.
    random_twin: bool = False
    # packed: our encoder, without padding. padded: a model of Transformers. auto: packed where our encoder can
    # compute the model.
    engine: Engine = "auto"
    device: Device = "auto"
    # auto: bf16 on a GPU, fp32 on a CPU.
    precision: Precision = "auto"
    # Which published protocol the settings follow, for tables.
    protocol: str = ""


@dataclass(frozen=True)
class SuiteConfig:
    """A YAML file of tasks."""

    tasks: dict[str, TaskConfig]
    # Root of relative paths; empty: the folder of the YAML file.
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Task(TaskConfig):
    """A task of a loaded suite."""

    name: str
    # Root of its relative paths.
    folder: Path

    @property
    def job_seed(self) -> int:
        """The seed of one job."""
        return self.seeds[0] if self.seed is None else self.seed

    def path(self, file: str) -> Path:
        """Return the path of one of its files."""
        return self.folder / Path(file).expanduser()


@dataclass(frozen=True)
class Suite:
    """A loaded suite."""

    # Of the YAML file, without its ending.
    name: str
    path: Path
    tasks: dict[str, Task]
