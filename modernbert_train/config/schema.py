"""The fields of a recipe: the reference page.

A recipe describes a whole run: model, data, masking, optimizer, phases, evaluation and logging. The dataclasses
hold no behaviour: `loading.py` fills them from YAML and the command line, `validation.py` checks that their values
fit together.

- A field without a default must be set.
- Fields named `tokens` or `*_tokens` are whole numbers of tokens. YAML and overrides may write them with
  underscores (`8_192`) or a suffix: K, M, B, T for thousand to trillion (`50M`, `1.719T`).
- Fields named `*_bytes` are whole numbers of bytes, with the suffixes KB, MB, GB, TB for powers of 1,000 (`500GB`).
- Fields that say `auto` follow from other parts of the recipe where they are left out, or written as `auto`. A loaded
  recipe, and the recipe.yaml of a run folder, holds the number; `filling.py` has the rules.
- Paths are relative to the working directory.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

DecayShape = Literal["1-sqrt", "linear", "cosine"]
Precision = Literal["auto", "bf16", "fp32"]
AttentionBackend = Literal["auto", "flash2", "flash3", "flash4", "varlen", "torch"]
Device = Literal["auto", "cpu", "gpu"]  # "cuda" is read as "gpu"
Norm = Literal["layernorm", "rmsnorm"]  # each is described in NORMS
NormPlacement = Literal["pre", "post"]
Mlp = Literal["geglu", "swiglu", "gelu", "relu2"]  # each is described in MLPS
Positions = Literal["rope", "learned", "none"]
InitMethod = Literal["copy", "tile_middle", "tile_edge"]
ObjectiveName = Literal["mlm", "clm"]
OptimizerName = Literal["stableadamw", "adamw", "muon"]  # each is described in OPTIMIZERS


@dataclass(frozen=True)
class ModelConfig:
    """The encoder. Fields are named as in Transformers' `ModernBertConfig`; the defaults are ModernBERT-base.

    The fields from `norm` to `parallel_block` are switches for ablations; all defaults together are ModernBERT.
    The BERT of 2018 is post-norm, gelu, learned positions, biases, and global attention in every layer. Any other
    combination can be trained; it can be exported if Transformers' ModernBERT or BERT class computes it.

    With `init.from`, fields that are left out are those of the weights, also the thetas of RoPE in phases; dropout and
    initialization are not.
    """

    # Rows of the embedding matrix: at least the tokenizer's ids. Rounded up to a multiple of 64, for the tensor cores.
    # auto: the tokenizer's ids, or with init.from that of the weights.
    vocab_size: int = 50_368
    # Width of the residual stream; a multiple of num_attention_heads.
    hidden_size: int = 768
    # Number of layers.
    num_hidden_layers: int = 22
    # Attention heads of each layer; base and large have 64 dimensions per head.
    num_attention_heads: int = 12
    # Inner width of the MLP. The input matrix of a gated MLP is twice as wide.
    intermediate_size: int = 1_152
    # Kind of normalization.
    norm: Norm = "layernorm"
    # pre: normalize the input of attention and MLP. post: normalize the sum of each with its input.
    norm_placement: NormPlacement = "pre"
    # geglu and swiglu are gated; gelu and relu2 (squared ReLU) are not.
    mlp: Mlp = "geglu"
    # rope: rotary embeddings. learned: a table of max_position_embeddings rows. none: only the attention windows
    # tell near from far.
    positions: Positions = "rope"
    # Whether linear layers and layernorms have biases. The decoder always has one.
    bias: bool = False
    # Whether attention and MLP read the same normalized input and are added together (pre-norm only).
    parallel_block: bool = False
    # Full width of the attention window of local layers, in tokens: 128 is 64 to either side. Must be even.
    local_attention: int = 128
    # Layers 0, n, 2n, ... attend to the whole document, the others to a window. 1: every layer is global.
    global_attn_every_n_layers: int = 3
    # RoPE base of the global layers while no phase is set; during a run each phase sets its own.
    global_rope_theta: float = 160_000.0
    # The same for the local layers.
    local_rope_theta: float = 10_000.0
    # Epsilon of the norms.
    norm_eps: float = 1e-5
    # Dropout after the embeddings. This and the next two apply to pretraining only: an exported model has 0.
    embedding_dropout: float = 0.0
    # Dropout after the output projection of attention.
    attn_out_dropout: float = 0.1
    # Dropout after the MLP.
    mlp_out_dropout: float = 0.0
    # Standard deviation of the truncated normal that weights are drawn from; a narrow model needs a larger one.
    initializer_range: float = 0.02
    # Weights are truncated at this many standard deviations.
    initializer_cutoff_factor: float = 2.0
    # Longest context_tokens a phase may set; with learned positions also the length of their table.
    max_position_embeddings: int = 8_192


@dataclass(frozen=True)
class NormKind:
    """What distinguishes one kind of norm from another; `model.layers` has the formulas."""

    # Name in text for people.
    display_name: str
    # Its weights, each as wide as the hidden size; "bias" only if the model has biases.
    weights: tuple[str, ...]


NORMS: dict[Norm, NormKind] = {
    "layernorm": NormKind("LayerNorm", ("weight", "bias")),
    "rmsnorm": NormKind("RMSNorm", ("weight",)),
}


@dataclass(frozen=True)
class MlpKind:
    """What distinguishes one kind of MLP from another; `model.layers` has the formulas."""

    # Name in text for people.
    display_name: str
    # Whether the output of the activation is multiplied by a second projection of the input.
    is_gated: bool


MLPS: dict[Mlp, MlpKind] = {
    "geglu": MlpKind("GeGLU", is_gated=True),
    "swiglu": MlpKind("SwiGLU", is_gated=True),
    "gelu": MlpKind("GELU", is_gated=False),
    "relu2": MlpKind("squared ReLU", is_gated=False),
}

MODEL_SWITCHES = ("norm", "norm_placement", "mlp", "positions", "bias", "parallel_block")


@dataclass(frozen=True)
class SourceConfig:
    """A source of text: one of the sources in a token store written by `data_prep`."""

    # Path of the store, or its URL: s3://, gs://, oci://, azure://, hf://.
    store: str
    # Name of the source inside the store; null: the key of this entry.
    source: str | None = None


@dataclass(frozen=True)
class SkipConfig:
    """Planned data to leave out, for example around a loss spike. All other data keeps its place.

    A list that changes in the middle of a run applies from then on.
    """

    # Optimizer steps, counted from 1 as in the logs: 1500 or "1200-1300".
    steps: list[str] = field(default_factory=list)
    # Documents of the training splits, counted from 0: "web:17" or "web:20-29".
    documents: list[str] = field(default_factory=list)
    # Text file with more documents, one entry per line, # for comments; null: none.
    documents_file: str | None = None


@dataclass(frozen=True)
class CacheConfig:
    """Local cache for remote stores. Runs on one machine may share it; the folder may differ between machines."""

    # Folder on a local disk. It also holds the stores' sidecar files, 4 bytes per document.
    folder: str = "cache"
    # Maximum bytes of cached shards (least recently used are evicted); null: unlimited.
    limit_bytes: int | None = None
    # Attempts per file before the run fails.
    download_attempts: int = 8
    # Seconds without data before a download attempt counts as failed.
    download_timeout_seconds: float = 60.0


@dataclass(frozen=True)
class DataConfig:
    """Where the data is and how it is read.

    The order of the data depends on `num_streams`, `num_canonical_nodes` and `shuffle_rows`, not on `num_workers` or
    on the number of GPUs.
    """

    # Folder with tokenizer.json, the file itself, or the path or URL of a store, which contains one.
    tokenizer: str
    # Name -> source. Phases mix sources by these names.
    sources: dict[str, SourceConfig]
    # Streams the data is split into. Every number of ranks up to it trains on the same batches, without padding if it
    # divides the streams. auto: the largest number up to 64 that divides the rows of every batch of every phase.
    num_streams: int = 64
    # Rows that are packed and shuffled together: per stream or, from small stores, over all streams. At least 64 rows
    # and some blocks of the store are taken, at most an epoch of a small store.
    shuffle_rows: int = 2_048
    # Loader processes per rank; no more are started than it has streams. 0: read in the training process.
    num_workers: int = 4
    # Seconds without data after which a run ends, and names the worker that it waits for; a warning comes after a tenth
    # of them. Less than training.rank_timeout_seconds, since a rank that waits for data lets the others wait.
    stall_seconds: float = 900.0
    # Groups of streams with shards of their own, so that each machine downloads only its share; divides num_streams.
    num_canonical_nodes: int = 1
    # Epochs over a source in the whole run above which a warning is logged; .inf: never. Up to 4 epochs are nearly
    # as good as new text (Muennighoff et al. 2023, 2305.16264).
    warn_epochs: float = 4.0
    # Planned data to leave out.
    skip: SkipConfig = field(default_factory=SkipConfig)
    # Cache of stores that are read from a URL.
    cache: CacheConfig = field(default_factory=CacheConfig)


@dataclass(frozen=True)
class MixtureConfig:
    """How much of a phase's tokens comes from each source, in one of three forms.

        mixture: {web: 0.8, code: 0.2}                   shares of the tokens
        mixture: {epochs: {web: 1, science: 2.5}}        up-sampling: relative number of epochs over each source
        mixture: {temperature: 0.5}                      share proportional to (tokens of the source)^0.5
        mixture: {temperature: 0.5, sources: [de, fr]}   the same, for some of the sources

    Epochs are relative to each other: the actual number follows from the length of the phase, and `--dry-run` shows it.
    """

    # Source -> share of the tokens: positive numbers, scaled to add up to 1. YAML writes them directly in the mixture.
    shares: dict[str, float] = field(default_factory=dict)
    # Source -> relative number of epochs; its share is proportional to epochs x tokens.
    epochs: dict[str, float] = field(default_factory=dict)
    # Exponent of the sources' tokens: 1 is proportional to size, 0 gives equal shares. This is tau in mmBERT
    # (2509.06888) and alpha in XLM-R (1911.02116); for a temperature T >= 1, as in mT5 and NLLB, write 1/T.
    temperature: float | None = None
    # Sources the temperature applies to; null: all.
    sources: list[str] | None = None


@dataclass(frozen=True)
class MaskingConfig:
    """What replaces the tokens chosen for prediction; the remaining fraction is left unchanged."""

    # Fraction replaced by [MASK].
    mask_fraction: float = 0.8
    # Fraction replaced by a random token.
    random_fraction: float = 0.1


@dataclass(frozen=True)
class BatchRampConfig:
    """Batch size warmup: the batch grows to the phase's `batch_tokens`, the same number of steps at every size."""

    # Batch size at the start of the phase, in tokens.
    start_tokens: int
    # Length of the ramp, in tokens.
    tokens: int


@dataclass(frozen=True, kw_only=True)
class InheritedPhaseConfig:
    """The fields that a phase inherits from the phase before where its YAML omits them or says null.

    The first phase takes the defaults below, and must set the fields that have none.
    """

    # Share of each source.
    mixture: MixtureConfig
    # Tokens per optimizer step over all ranks, padding included: rows x row_tokens.
    batch_tokens: int
    # Peak learning rate, between warmup and decay.
    learning_rate: float
    # Longest piece of a document, [CLS] and [SEP] included; longer documents are cut.
    context_tokens: int = 1_024
    # Length of a row, into which whole pieces are packed; at least context_tokens. auto: the longest up to 8,192 that
    # cuts the batch into rows that the streams can share, at least 8 of them if possible.
    row_tokens: int = 8_192
    # Most tokens in a forward and backward pass of one rank: affects speed and memory, not the result. A rank takes
    # fewer where that saves padding. auto: row_tokens.
    micro_batch_tokens: int = 8_192
    # RoPE base of the global layers; longer contexts need a larger one.
    global_rope_theta: float = 10_000.0
    # RoPE base of the local layers.
    local_rope_theta: float = 10_000.0
    # mlm: predict masked tokens from both sides. clm: predict the next token of the document from the ones before;
    # logits of all tokens need more memory than those of masked tokens, so micro_batch_tokens may have to be smaller.
    objective: ObjectiveName = "mlm"
    # Fraction of the tokens chosen for prediction by mlm. clm ignores it, and later phases still inherit it.
    mask_rate: float = 0.3
    # Weight decay of this phase; null in the first phase: optimizer.weight_decay.
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseConfig(InheritedPhaseConfig):
    """One phase of training. Tokens count from 0 in every phase; the fields below are not inherited."""

    # Length of the phase.
    tokens: int
    # Linear warmup from start_lr_fraction x learning_rate; 0: none.
    warmup_tokens: int = 0
    # Learning rate at the start of the warmup, as a fraction of learning_rate.
    start_lr_fraction: float = 0.0
    # Length of the decay at the end of the phase; 0: none.
    decay_tokens: int = 0
    # Shape of the decay. 1-sqrt is 1 - sqrt(progress), best after a constant rate (Hägele et al. 2024, 2405.18392).
    decay_shape: DecayShape = "1-sqrt"
    # Learning rate at the end of the decay, as a fraction of learning_rate.
    final_lr_fraction: float = 0.0
    # Batch size warmup at the start of the phase; null: none.
    batch_ramp: BatchRampConfig | None = None


INHERITED_FIELDS = tuple(inherited.name for inherited in fields(InheritedPhaseConfig))

AUTO = "auto"
# Fields that may be `auto`, which is also what they are where they are left out.
AUTO_FIELDS: dict[type, tuple[str, ...]] = {
    ModelConfig: ("vocab_size",),
    DataConfig: ("num_streams",),
    PhaseConfig: ("row_tokens", "micro_batch_tokens"),
}


@dataclass(frozen=True)
class OptimizerKind:
    """What distinguishes one optimizer from another; `optim.optimizer` builds them."""

    # Name in text for people.
    display_name: str
    # Numbers that it keeps beside each weight.
    num_moments: int = 2
    # The same for the matrices between embedding and decoder.
    num_hidden_moments: int = 2
    # Whether it reads `momentum`.
    has_momentum: bool = False


OPTIMIZERS: dict[OptimizerName, OptimizerKind] = {
    "stableadamw": OptimizerKind("StableAdamW"),
    "adamw": OptimizerKind("AdamW"),
    "muon": OptimizerKind("Muon, and AdamW", num_hidden_moments=1, has_momentum=True),
}


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer. Weight decay is fully decoupled: scaled by the schedule, but not by the learning rate."""

    # muon updates the matrices between embedding and decoder with Muon and everything else with AdamW. Its updates
    # are scaled to the size of AdamW's, so the same learning rates apply.
    name: OptimizerName = "stableadamw"
    # Decay rates of the moving averages of gradient and squared gradient.
    betas: tuple[float, float] = (0.9, 0.98)
    # Added to the denominator of the update.
    eps: float = 1e-6
    # Weight decay of phases that do not set their own. Biases and norms have none.
    weight_decay: float = 1e-5
    # Maximum norm of the gradient; null: no clipping. StableAdamW clips its own update instead.
    gradient_clip_norm: float | None = None
    # Momentum of muon; null: 0.95. The other optimizers have none.
    momentum: float | None = None


@dataclass(frozen=True)
class InitConfig:
    """Initial weights. They are read once, at the first start: a restarted run resumes from its own checkpoint."""

    # `from` in YAML: a run folder, a checkpoint or a Hugging Face folder; null: random weights.
    from_: str | None = None
    # copy: a model of the same size. tile_middle and tile_edge: a smaller model, tiled (see `checkpoints.tiling`).
    method: InitMethod = "copy"
    # When tiling, keep the size of sums over repeated dimensions; false: tile as ModernBERT-large was.
    rescale: bool = True
    # Transfer the embeddings to data.tokenizer when the weights were trained with another tokenizer.
    transplant: bool = False


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss and accuracy per source, under the objective of the phase."""

    # Tokens between evaluations; 0: only at the end of each phase.
    every_tokens: int = 0
    # Fraction of masked tokens, the same in all phases (mlm only); the masks are fixed.
    mask_rate: float = 0.15
    # Maximum number of rows per source.
    max_rows: int = 64


@dataclass(frozen=True)
class TrainingConfig:
    """How the run is executed. Nothing here changes the trained weights, beyond rounding."""

    # auto: bf16 autocast on a GPU, fp32 on a CPU. Weights and optimizer state are always fp32.
    precision: Precision = "auto"
    # auto: varlen (PyTorch's flash attention) where it runs, otherwise torch (plain PyTorch, any device). flash2 to
    # flash4 need their packages.
    attention_backend: AttentionBackend = "auto"
    # Whether to compile the model with torch.compile.
    compile: bool = False
    # auto: gpu if there is one.
    device: Device = "auto"
    # Tokens between checkpoints; 0: only at the end of each phase.
    save_every_tokens: int = 0
    # Number of recent checkpoints to keep, besides the last one of each phase.
    keep_checkpoints: int = 3
    # Half-life, in tokens, of an exponential moving average of the weights, stored in checkpoints; 0 disables it.
    # Evaluation and export use the trained weights; `modernbert average --ema` extracts the average.
    ema_half_life_tokens: int = 0
    # Seconds that ranks wait for each other: for a rank that does not start, is stopped, or is on a machine that is
    # gone; also for a file that is written. A first compilation or a checkpoint may take many minutes.
    rank_timeout_seconds: float = 1_800.0
    # Steps between log lines.
    log_every_steps: int = 10
    # Whether to show a progress bar in a terminal; false: log lines only.
    progress_bar: bool = True


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases."""

    # Project to log to; null: W&B is off.
    project: str | None = None
    # User or team; null: the default of your W&B account.
    entity: str | None = None
    # offline: write to the run folder only, for `wandb sync`. disabled: W&B is off, as without a project.
    mode: Literal["online", "offline", "disabled"] = "online"
    # Tags of the W&B run.
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """A whole run."""

    # Name of the run: letters, digits, '-', '_' and '.'.
    name: str
    # Where the data is and how it is read.
    data: DataConfig
    # Name -> phase, trained in this order.
    phases: dict[str, PhaseConfig]
    # Seed of initialization, data order, masks and dropout.
    seed: int = 17
    # Folder of checkpoints, metrics and logs. `{name}` is replaced by the name, and filled in in a loaded recipe.
    run_folder: str = "runs/{name}"
    # Train this phase only, from the weights of init.from. It inherits and reads the same data as in the whole run,
    # and its run is named NAME-PHASE. A loaded recipe contains only that phase. null: train all phases.
    phase: str | None = None
    # Size and architecture of the encoder.
    model: ModelConfig = field(default_factory=ModelConfig)
    # What replaces the tokens chosen for prediction.
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    # Optimizer; learning rates are set by the phases.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Initial weights.
    init: InitConfig = field(default_factory=InitConfig)
    # Evaluation on held-out text during training.
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    # Device, precision, checkpoints and logging.
    training: TrainingConfig = field(default_factory=TrainingConfig)
    # Weights & Biases.
    wandb: WandbConfig = field(default_factory=WandbConfig)
