"""The ONNX graph of a Hugging Face folder, compared with Transformers in ONNX Runtime before it is kept.

    onnx/model.onnx

This is where transformers.js, Sentence Transformers and text-embeddings servers look for it. Batch and length are free.
"""

import inspect
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from modernbert_train.checkpoints.hf.folder import context_tokens
from modernbert_train.checkpoints.hf.transformers_model import load_model, saved_class
from modernbert_train.checkpoints.source import FailedCheck
from modernbert_train.common.extras import require_extra
from modernbert_train.common.text import one_line
from modernbert_train.convert.parity import LONGEST_PROBE_TOKENS, MAX_DIFFERENCE, ProbeResult

ONNX_FILE = Path("onnx/model.onnx")
OPSET = 18
# A file of protobuf has at most 2 GiB; the weights of larger models go to a file of their own beside it.
_LARGEST_FILE_BYTES = 1_900_000_000
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def require_onnx() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        ValueError: One is not.
    """
    require_extra("onnx", "onnx", "onnxscript", "onnxruntime")


def write_onnx(folder: Path, encoder_only: bool = False) -> list[str]:
    """Write the graph of the model in a Hugging Face folder into it.

    The output is `logits` [batch, length, vocabulary] of a masked-LM model, [batch, labels] of a classifier, or
    `last_hidden_state` [batch, length, hidden] of an encoder.

    Args:
        folder: The folder, with the tokenizer.
        encoder_only: Leave out the head, as programs need it that compute embeddings.

    Returns:
        Lines for users: how far ONNX Runtime is from Transformers.

    Raises:
        FailedCheck: torch cannot export the model, or a difference is above `MAX_DIFFERENCE`.
        ValueError: Transformers cannot load the folder.
    """
    require_onnx()
    import onnxruntime

    model = _load(folder, encoder_only)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batches = _probe_batches(model, tokenizer, min(context_tokens(folder), LONGEST_PROBE_TOKENS))
    graph = _Graph(model).eval()
    file = folder / ONNX_FILE
    file.parent.mkdir()
    _export(graph, batches["a padded batch"], file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    title = (
        f"{ONNX_FILE}: {graph.output} of ONNX Runtime {onnxruntime.__version__} and Transformers "
        f"{transformers.__version__}, float32 on the CPU"
    )
    return [title, *(str(_compare(name, batch, graph, session)) for name, batch in batches.items())]


class _Graph(nn.Module):
    """A model with plain tensors for inputs and output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.output = "last_hidden_state" if type(model) is type(model.base_model) else "logits"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        output: Tensor = self.model(**inputs, return_dict=True)[self.output]
        return output


def _load(folder: Path, encoder_only: bool) -> Any:
    kind = AutoModel if encoder_only else saved_class(folder)
    model, problems = load_model(folder, kind)
    # Transformers makes a new pooler where there is none; no output depends on it.
    if missing := [name for name in problems["missing_keys"] if "pooler." not in name]:
        raise ValueError(f"{folder}: lacks weights of {type(model).__name__}: {', '.join(missing):.300}")
    return model


def _probe_batches(model: Any, tokenizer: Any, longest: int) -> dict[str, dict[str, Tensor]]:
    """Return padded batches of random tokens, deterministic.

    Returns:
        Name -> inputs of the model, each [documents, longest of the batch].
    """
    generator = random.Random(0)
    drawable = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in _INPUTS if name in tokenizer.model_input_names and name in accepted]
    num_types = getattr(model.config, "type_vocab_size", None) or 1

    def batch(*lengths: int) -> dict[str, Tensor]:
        lengths = tuple(min(length, longest) for length in lengths)
        shape = len(lengths), max(lengths)
        inputs = {
            "input_ids": torch.full(shape, tokenizer.pad_token_id or 0),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "token_type_ids": torch.zeros(shape, dtype=torch.int64),
        }
        for row, length in enumerate(lengths):
            inputs["input_ids"][row, :length] = torch.tensor(generator.choices(drawable, k=length))
            inputs["attention_mask"][row, :length] = 1
            inputs["token_type_ids"][row, length // 2 : length] = min(1, num_types - 1)
        return {name: inputs[name] for name in names}

    return {
        "a padded batch": batch(24, 7, 2),
        "a short text": batch(3),
        "another padded batch": batch(131, 200, 1, 17),
        "as long as the context": batch(longest),
    }


def _export(graph: _Graph, inputs: dict[str, Tensor], file: Path) -> None:
    num_bytes = sum(weight.numel() * weight.element_size() for weight in graph.parameters())
    try:
        with warnings.catch_warnings(action="ignore"):  # about names of axes, and of torch about itself
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                file,
                input_names=list(inputs),
                output_names=[graph.output],
                dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in inputs),
                opset_version=OPSET,
                external_data=num_bytes > _LARGEST_FILE_BYTES,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of an architecture that torch cannot trace
        raise FailedCheck(
            f"torch {torch.__version__} cannot export {type(graph.model).__name__} to ONNX: {one_line(error):.500}"
        ) from error


def _compare(name: str, inputs: dict[str, Tensor], graph: _Graph, session: Any) -> ProbeResult:
    with torch.no_grad():
        expected = graph(**inputs).numpy()
    (actual,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    mask = inputs["attention_mask"].numpy().astype(bool)
    if expected.ndim == 3:  # a value for every token: those of padding may be anything
        expected, actual = expected[mask], actual[mask]
    result = ProbeResult(
        name,
        document_tokens=tuple(mask.sum(1).tolist()),
        max_difference=float(np.abs(expected - actual).max()),
        max_logit=float(np.abs(expected).max()),
    )
    if not result.agrees:
        raise FailedCheck(
            f"{graph.output} of ONNX Runtime differ from Transformers' by {result.max_difference:.1e} on {name} "
            f"(values up to {result.max_logit:.1f}); the limit is {MAX_DIFFERENCE:.0e} of the largest value"
        )
    return result
