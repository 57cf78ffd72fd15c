"""A quickstart killed in each of its three phases equals the uninterrupted run; also with a causal first phase."""

import re

import pytest

from tests.helpers import kill_phases
from tests.helpers.recipes import YAMLS, skewed_documents
from tests.helpers.spawned import start
from tests.helpers.stores import make_store, make_tokenizer

# The quickstart's batches, ramp, contexts and schedules, with fewer tokens, and the fewest layers and ids that have all
# parts.
SHORT_QUICKSTART = """
include: {quickstart}
model: {{vocab_size: 256, hidden_size: 32, num_hidden_layers: 2, intermediate_size: 48}}
data:
  tokenizer: {folder}/tokenizer
  sources:
    prose: {{store: {folder}/store}}
    code: {{store: {folder}/store}}
    science: {{store: {folder}/store}}
  shuffle_rows: 64
phases:
  pretrain: {{tokens: 20K, warmup_tokens: 5K, batch_ramp: {{tokens: 6K}}}}
  extension: {{tokens: 24K}}
  decay: {{tokens: 24K, decay_tokens: 24K, weight_decay: 1e-3, mask_rate: 0.15}}
evaluation: {{max_rows: 2}}
training: {{save_every_tokens: 5K, log_every_steps: 1, device: cpu, progress_bar: false}}
"""


@pytest.fixture
def recipe(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    documents = {"train": skewed_documents(300, 1), "valid": skewed_documents(20, 2)}
    make_store(tmp_path / "store", tokenizer, dict.fromkeys(("prose", "code", "science"), documents))
    path = tmp_path / "short.yaml"
    path.write_text(SHORT_QUICKSTART.format(folder=tmp_path, quickstart=YAMLS / "quickstart.yaml"))
    return path


# In the second round, each kill comes during a save.
@pytest.mark.parametrize(
    ("rounds", "overrides"),
    [(2, []), (1, ["phases.pretrain.objective=clm", "phases.extension.objective=mlm"])],
)
def test_killed_in_every_phase(recipe, rounds, overrides):
    done = start(kill_phases.main, [str(recipe), *overrides, "--rounds", str(rounds)]).finish(500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(re.findall("lines of metrics and all weights equal, bit for bit", done.stdout)) == rounds
    assert f"killed: {rounds} x in pretrain, {rounds} x in extension, {rounds} x in decay" in done.stdout
