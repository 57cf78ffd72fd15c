"""The fields of a recipe.

A recipe says everything about a run: model, data, masking, optimizer, phases, evaluation, logging. The
classes here hold no behaviour; `loading.py` fills them from YAML and the command line, `validation.py` checks
how the fields fit together.

Every field named `tokens` or `*_tokens` is a whole number of tokens; a YAML or an override may write it with
a suffix (K = 1,000, M, B, T: `50M`, `1.719T`) and with underscores (`8_192`). So is `*_bytes`, with KB, MB, GB
and TB (`500GB`). Paths are relative to the working directory.
"""

from dataclasses import dataclass, field
from typing import Literal

DecayShape = Literal["1-sqrt", "linear", "cosine"]
Precision = Literal["auto", "bf16", "fp32"]
AttentionBackend = Literal["auto", "flash2", "flash3", "flash4", "varlen", "torch"]
Device = Literal["auto", "cpu", "gpu"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post"]
Mlp = Literal["geglu", "swiglu", "gelu"]  # each is described in MLPS
Positions = Literal["rope", "learned", "none"]
InitMethod = Literal["copy", "tile_middle", "tile_edge"]
Objective = Literal["mlm", "clm"]
OptimizerName = Literal["stableadamw", "adamw", "muon"]


@dataclass(frozen=True)
class ModelConfig:
    """The encoder. Names are those of Transformers' `ModernBertConfig`; the defaults are ModernBERT-base.

    The switches, `norm` to `parallel_block`, are for ablations: all defaults together are ModernBERT; BERT of
    2018 is post-norm (which is initialized in its own way, see `model.initialization`), gelu, learned
    positions, biases and global attention in every layer. A model that is neither trains as well, and says on
    export that Transformers has no class for it.

    `global_rope_theta` and `local_rope_theta` are what a model is built with; a phase sets its own. Without
    rope nothing reads them.
    """

    vocab_size: int = 50_368  # a multiple of 64, for the tensor cores
    hidden_size: int = 768
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    intermediate_size: int = 1_152  # of the MLP; the first matrix of a gated one is twice as wide
    norm: Norm = "layernorm"
    norm_placement: NormPlacement = "pre"  # before attention and MLP, or after each is added to its input
    mlp: Mlp = "geglu"
    positions: Positions = "rope"  # learned: max_position_embeddings; none: windows alone tell near from far
    bias: bool = False  # in every linear layer and layernorm; the decoder has one always
    parallel_block: bool = False  # attention and MLP read the same normed input and are added at once
    local_attention: int = 128  # full width of the window: 64 tokens to either side
    global_attn_every_n_layers: int = 3  # layers 0, n, 2n, ... see the whole document
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    embedding_dropout: float = 0.0  # while pretraining, like the next two; an exported model has 0
    attn_out_dropout: float = 0.1
    mlp_out_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0  # weights are cut off at this many standard deviations
    max_position_embeddings: int = 8_192


@dataclass(frozen=True)
class MlpKind:
    """What distinguishes one kind of MLP from another; `model.layers` has the formulas."""

    display_name: str
    is_gated: bool


MLPS: dict[Mlp, MlpKind] = {
    "geglu": MlpKind("GeGLU", is_gated=True),
    "swiglu": MlpKind("SwiGLU", is_gated=True),
    "gelu": MlpKind("GELU", is_gated=False),
}

MODEL_SWITCHES = ("norm", "norm_placement", "mlp", "positions", "bias", "parallel_block")


@dataclass(frozen=True)
class SourceConfig:
    """One source of text: a name inside a store that `data_prep` has written."""

    store: str  # path of the store, or its URL: s3://, gs://, oci://, azure://, hf://
    source: str | None = None  # its name inside the store; left out: the key of this entry


@dataclass(frozen=True)
class SkipConfig:
    """What of the planned data is not trained on; everything else stays where it is.

    A list changed in the middle of a run holds from then on.
    """

    steps: list[str] = field(default_factory=list)  # counted from 1, as in the logs: 1500, or "1200-1300"
    documents: list[str] = field(default_factory=list)  # of training splits, from 0: "web:17", "web:20-29"
    documents_file: str | None = None  # more of them: a text file with one a line


@dataclass(frozen=True)
class CacheConfig:
    """Where a machine keeps what it has read of stores that a URL names. Runs may share it, machines differ in it."""

    folder: str = "cache"  # on a disk of the machine's own; the sidecars lie there too, 4 bytes a document
    limit_bytes: int | None = None  # of shards: those not read for longest make room; null: all stay
    download_attempts: int = 8  # for each file; after the last one the run ends
    download_timeout_seconds: float = 60.0  # an attempt has failed when no byte has arrived for so long


@dataclass(frozen=True)
class DataConfig:
    """What is read, and by how many readers. `num_streams`, `num_canonical_nodes` and `shuffle_rows` decide the
    order of the data; `num_workers` does not.
    """

    tokenizer: str  # folder with tokenizer.json, the file itself, or the URL of a store
    sources: dict[str, SourceConfig]
    num_streams: int = 64  # canonical streams: the same batches for every number of ranks that divides them
    shuffle_rows: int = 2_048  # rows that are packed, and shuffled, together
    num_workers: int = 4  # loader processes of every rank; 0 reads in the training process
    num_canonical_nodes: int = 1  # each reads shards of its own, so that a machine downloads its share only
    # Over the whole run, before it is warned of: up to 4 epochs over a text are nearly as good as fresh text
    # (Muennighoff et al. 2023, 2305.16264).
    warn_epochs: float = 4.0
    skip: SkipConfig = field(default_factory=SkipConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)


@dataclass(frozen=True)
class MixtureConfig:
    """How the tokens of a phase are shared out among the sources, in one of three ways:

        mixture: {web: 0.8, code: 0.2}                   shares of the tokens
        mixture: {epochs: {web: 1, science: 2.5}}        up-sampling: how often each is gone through
        mixture: {temperature: 0.5}                      share proportional to (tokens of the source)^0.5
        mixture: {temperature: 0.5, sources: [de, fr]}   the same, of some of the sources

    In YAML shares stand in the mixture itself; here they have a name. Passes are relative to each other: how many
    they come to follows from the length of the phase, and `--dry-run` shows it. `temperature` is the exponent itself
    (tau of mmBERT 2509.06888, alpha of XLM-R 1911.02116): 1 = in proportion to size, 0 = all alike. Where others
    write a temperature T of 1 and above (mT5, NLLB), 1/T is meant.
    """

    shares: dict[str, float] = field(default_factory=dict)  # any positive numbers, scaled to add up to 1
    epochs: dict[str, float] = field(default_factory=dict)  # share proportional to epochs x tokens
    temperature: float | None = None
    sources: list[str] | None = None  # that the temperature is for; null: all


@dataclass(frozen=True)
class MaskingConfig:
    """What becomes of the tokens chosen for prediction; the three fractions add up to 1."""

    mask_fraction: float = 0.8  # replaced by [MASK]
    random_fraction: float = 0.1  # replaced by a random token
    keep_fraction: float = 0.1  # left as they are


@dataclass(frozen=True)
class BatchRampConfig:
    """The batch grows from `start_tokens` to the phase's `batch_tokens` over the first `tokens` tokens of the
    phase.
    """

    start_tokens: int
    tokens: int


@dataclass(frozen=True)
class PhaseConfig:
    """One stretch of training with its own clock: tokens count from 0 in every phase.

    The fields of the first group, when a YAML leaves them out (or says null), are taken from the phase
    before; the first phase takes the defaults written here, and must set those that have none. The others are
    each phase's own.
    """

    # Inherited from the phase before.
    batch_tokens: int  # tokens in an optimizer step, over all ranks: rows x row_tokens
    learning_rate: float  # of the stable stretch, between warmup and decay
    mixture: MixtureConfig  # what share of the tokens each source gets

    # Each phase's own.
    tokens: int  # length of the phase

    # Inherited from the phase before.
    context_tokens: int = 1_024  # longest piece of a document, [CLS] and [SEP] included
    row_tokens: int = 8_192  # slots of a row, filled with whole pieces; at least context_tokens
    micro_batch_tokens: int = 8_192  # what a rank computes at once; left out in the first phase: row_tokens
    global_rope_theta: float = 10_000.0
    local_rope_theta: float = 10_000.0
    # mlm: masked tokens are predicted, from both sides. clm: every token predicts the next one of its document, and
    # sees only what comes before. Logits of all tokens, not of the masked ones alone, take more memory: mind
    # micro_batch_tokens.
    objective: Objective = "mlm"
    mask_rate: float = 0.3  # of mlm; a phase of clm hands it on to the next
    weight_decay: float | None = None  # left out in the first phase: that of the optimizer

    # Each phase's own.
    warmup_tokens: int = 0  # linear, from start_lr_fraction * learning_rate
    start_lr_fraction: float = 0.0
    decay_tokens: int = 0  # at the end of the phase, down to final_lr_fraction * learning_rate
    decay_shape: DecayShape = "1-sqrt"
    final_lr_fraction: float = 0.0
    batch_ramp: BatchRampConfig | None = None


INHERITED_FIELDS = (
    "context_tokens",
    "row_tokens",
    "batch_tokens",
    "micro_batch_tokens",
    "learning_rate",
    "global_rope_theta",
    "local_rope_theta",
    "objective",
    "mask_rate",
    "weight_decay",
    "mixture",
)


@dataclass(frozen=True)
class OptimizerConfig:
    """StableAdamW, AdamW, or Muon for the matrices between embedding and decoder with AdamW for the rest.

    The weight decay of all of them is fully decoupled (scaled by the schedule, not by the learning rate) and spares
    biases and norms. Muon's update is scaled to the size of AdamW's: it takes the same learning rate.
    """

    name: OptimizerName = "stableadamw"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 1e-5  # a phase may set its own
    gradient_clip_norm: float | None = None  # null: not clipped; StableAdamW clips its own update
    momentum: float | None = None  # muon's alone; null: 0.95


@dataclass(frozen=True)
class InitConfig:
    """Where the first weights come from; the clock starts at 0. Applied once: a restart goes on from its own.

    tile_middle and tile_edge begin a larger model with a smaller one (`model.tiling`).
    """

    from_: str | None = None  # `from` in YAML: a run folder, checkpoint or Hugging Face folder; null: random
    method: InitMethod = "copy"  # of a model of the same size
    rescale: bool = True  # of tiling: keeps sums over repeated dimensions; false: as ModernBERT-large
    transplant: bool = False  # onto data.tokenizer, which is not the one the weights were trained with


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss and accuracy per source under the objective of the phase; of mlm with a fixed mask."""

    every_tokens: int = 0  # 0: only at the end of each phase
    mask_rate: float = 0.15
    max_rows: int = 64  # per source


@dataclass(frozen=True)
class TrainingConfig:
    """How the run is carried out; nothing here changes what is learned, beyond rounding."""

    precision: Precision = "auto"  # bf16 autocast on a GPU, else fp32; weights and optimizer are fp32 always
    attention_backend: AttentionBackend = "auto"
    compile: bool = False
    device: Device = "auto"
    save_every_tokens: int = 0  # 0: only at the end of each phase
    # The moving average of the weights, which checkpoints then carry too: what a step adds to it halves every so
    # many tokens. 0: none. Evaluation and export take the trained weights; `modernbert average --ema` takes it out.
    ema_half_life_tokens: int = 0
    keep_checkpoints: int = 3  # the newest so many stay, and the end of each phase
    log_every_steps: int = 10
    progress_bar: bool = True


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; off without a project."""

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """A whole run. `run_folder` may contain `{name}`; a loaded recipe has it filled in.

    With `phase` one of the phases is run by itself, from the weights of `init.from`: it inherits from those before as
    always, reads the same data, and its run is `NAME-PHASE`. A loaded recipe has that phase only.
    """

    name: str
    data: DataConfig
    phases: dict[str, PhaseConfig]  # run in this order
    seed: int = 17
    run_folder: str = "runs/{name}"
    phase: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    init: InitConfig = field(default_factory=InitConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
