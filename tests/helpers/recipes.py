"""A recipe small enough for tests (2 layers, two sources, two phases), and the list of shipped recipes."""

from pathlib import Path

from modernbert_train.config import Recipe, load_recipe
from tests.helpers.stores import make_store, make_tokenizer, random_documents

YAMLS = Path(__file__).parents[2] / "yamls"
# Folders of parts to include, of sweeps, and of tasks; all other files are complete recipes.
NO_RECIPES = ("models", "data", "training", "ablations", "evaluation")


def shipped_recipes() -> list[Path]:
    """Return the paths of all shipped recipes."""
    return sorted(
        path for path in YAMLS.rglob("*.yaml") if path.relative_to(YAMLS).parts[0] not in NO_RECIPES
    )


TINY = """
name: tiny
run_folder: {folder}/run
model:
  vocab_size: 256
  hidden_size: 64
  num_hidden_layers: 2
  num_attention_heads: 2
  intermediate_size: 96
  local_attention: 32
data:
  tokenizer: {folder}/tokenizer
  num_streams: 4
  shuffle_rows: 32
  num_workers: 1
  sources:
    web: {{store: {folder}/store}}
    code: {{store: {folder}/store}}
phases:
  pretrain:
    tokens: 24K
    context_tokens: 64
    row_tokens: 256
    batch_tokens: 2048
    batch_ramp: {{start_tokens: 1024, tokens: 4K}}
    micro_batch_tokens: 512
    learning_rate: 5e-3
    warmup_tokens: 4K
    mixture: {{web: 2, code: 1}}
  extension:
    tokens: 16K
    context_tokens: 256
    global_rope_theta: 160_000
    decay_tokens: 16K
    weight_decay: 1e-3
evaluation: {{max_rows: 2}}
training:
  save_every_tokens: 8K
  keep_checkpoints: 2
  log_every_steps: 1
  device: cpu
  precision: fp32
  progress_bar: false
"""


def skewed_documents(count: int, seed: int) -> list[list[int]]:
    """Return documents in which most tokens are followed by their successor, so that there is something to learn."""
    documents = random_documents(count, seed, median=80, longest=600)
    return [[5 + (document[0] + at // 3) % 50 for at in range(len(document))] for document in documents]


def make_tiny(folder: Path, num_layers: int = 2) -> Path:
    """Write tokenizer, store and recipe into `folder`; return the path of the recipe."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    sources = {
        "web": {"train": skewed_documents(400, 1), "valid": skewed_documents(20, 3)},
        "code": {"train": skewed_documents(200, 2), "valid": skewed_documents(20, 4)},
    }
    make_store(folder / "store", tokenizer, sources)
    recipe = folder / "tiny.yaml"
    text = TINY.format(folder=folder).replace("num_hidden_layers: 2", f"num_hidden_layers: {num_layers}")
    recipe.write_text(text, encoding="utf-8")
    return recipe


def load_tiny(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(make_tiny(folder), list(overrides))
