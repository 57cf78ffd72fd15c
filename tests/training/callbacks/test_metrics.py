"""The record of a logged step, and a new metric added as one class."""

import io
import json

import pytest
from composer.loggers import LoggerDestination
from tqdm.auto import tqdm

from modernbert_train.config import load_recipe
from modernbert_train.training import train as module
from modernbert_train.training.callbacks.base import Metric, step_of
from modernbert_train.training.callbacks.metrics import _as_many_as_fit
from modernbert_train.training.train import train

KEYS = {
    "time", "step", "tokens", "phase", "objective", "loss", "lr", "batch_tokens", "context_tokens", "global_rope_theta",
    "mask_rate", "grad_norm", "fill", "tokens_per_s", "tokens_per_s_per_device", "data_wait_share", "batch_crc32",
    "source_tokens", "peak_memory_gib",
}  # fmt: skip


class Toy(Metric):
    not_scalars = frozenset({"mood"})

    def record(self, state):
        return {"toy": 10.0 * step_of(state), "mood": "calm", "unknown": None, "parts": {"a": 1, "b": 2}}


class Destination(LoggerDestination):
    def __init__(self):
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append(dict(metrics))


@pytest.fixture(scope="module")
def written(tiny):
    """The lines of metrics.jsonl of a run with one more metric, and the values that a logger received."""
    destination, build_callbacks = Destination(), module.build_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "build_callbacks", lambda *parts: [Toy(), *build_callbacks(*parts)])
        patch.setattr(module, "loggers", lambda *parts: [destination])
        run = train(load_recipe(tiny, ["phases.extension=null", "phases.pretrain.tokens=8K"]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, destination.logged


def test_a_metric_is_one_class(written):
    lines, logged = written
    steps = [line for line in lines if "loss" in line]
    assert [line["toy"] for line in steps] == [10.0 * line["step"] for line in steps]
    assert steps[0]["mood"] == "calm"
    assert steps[0]["unknown"] is None
    assert steps[0]["parts"] == {"a": 1, "b": 2}
    ours = [metrics for metrics in logged if "train/toy" in metrics]
    assert [metrics["train/toy"] for metrics in ours] == [line["toy"] for line in steps]
    assert (ours[0]["parts/a"], ours[0]["parts/b"]) == (1, 2)


def test_the_keys_of_a_line_and_the_numbers_that_loggers_get(written):
    lines, logged = written
    steps = [line for line in lines if "loss" in line]
    assert set(steps[0]) - {"toy", "mood", "unknown", "parts", "mfu"} == KEYS
    ours = next(metrics for metrics in logged if "train/toy" in metrics)
    others = {
        "time",
        "step",
        "phase",
        "objective",
        "batch_crc32",
        "source_tokens",
        "mood",
        "unknown",
        "parts",
    }
    scalars = {f"train/{key}" for key in set(steps[0]) - others}
    assert set(ours) == scalars | {"source_tokens/web", "source_tokens/code", "parts/a", "parts/b"}
    assert all(isinstance(value, int | float) for value in ours.values())
    (evaluation,) = [line for line in lines if "eval" in line]
    assert list(evaluation) == ["time", "step", "tokens", "phase", "objective", "eval"]


@pytest.mark.parametrize("columns", [50, 80, 100, 160])
def test_a_progress_bar_fits_the_terminal(monkeypatch, columns):
    figures = ["loss 3.123", "lr 5.0e-04", "context 1,024", "waiting for data 0%"]
    shown = _as_many_as_fit(figures, columns - 60 - len("pretrain"))
    bar = tqdm(
        total=12_345_678, initial=1_234_567, unit=" tok", unit_scale=True, ncols=columns, file=io.StringIO()
    )
    bar.set_description("pretrain", refresh=False)
    bar.set_postfix_str(shown, refresh=False)
    values = {**bar.format_dict, "elapsed": 4_000.0, "rate": 3_456.0}
    line = bar.format_meter(**values)
    assert len(line) <= columns
    assert line.endswith("]") or columns == 50
    assert (shown == ", ".join(figures)) == (columns == 160)
