"""The choice of the attention backend, and the calls of the flash-attention packages.

The packages are not installed: fakes with their signatures replace them and compute the reference.
"""

import sys
import types

import pytest
import torch

from modernbert_train.config import ModelConfig
from modernbert_train.model import ModernBertForMaskedLM, attention_torch, backends, resolve_backend
from modernbert_train.model import attention as attention_module
from modernbert_train.model.attention import attention, packed_attention
from modernbert_train.model.backends import backends_by_device
from tests.helpers.packed_documents import cu_seqlens
from tests.model.test_attention import assert_equals_reference, make_qkv
from tests.reference.attention import attention as reference


@pytest.fixture
def a_gpu(monkeypatch):
    """Pretend to have a GPU; returns the function that sets its compute capability."""

    def pretend(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")

    return pretend


def test_auto_without_a_gpu():
    backend, reason = resolve_backend("auto", "cpu")
    assert backend == "torch"
    assert "no flash kernels for cpu" in reason


def test_auto_with_a_gpu(a_gpu):
    a_gpu((9, 0))
    backend, reason = resolve_backend("auto", torch.device("cuda"))
    assert backend == "varlen"
    assert "nothing to install" in reason
    assert backends_by_device("auto") == {"cpu": "torch", "cuda": "varlen"}


def test_auto_with_a_gpu_that_is_too_old(a_gpu):
    a_gpu((7, 5))
    backend, reason = resolve_backend("auto", "cuda")
    assert backend == "torch"
    assert "slow on a GPU: it needs compute capability 8.0 or newer, but pretended has 7.5" in reason


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="attention_backend is 'flash'; allowed are auto, flash2"):
        resolve_backend("flash", "cpu")
    with pytest.raises(ValueError, match="allowed are auto"):
        ModernBertForMaskedLM(ModelConfig(num_hidden_layers=1), attention_backend="flash")


@pytest.mark.parametrize("backend", ["varlen", "flash2", "flash3", "flash4"])
def test_a_gpu_backend_without_a_gpu(backend):
    with pytest.raises(ValueError, match=f"'{backend}': it needs a CUDA device, but.*use auto or torch"):
        resolve_backend(backend, "cpu")
    with pytest.raises(ValueError, match="but the tensors are on cpu; use auto or torch"):
        attention(make_qkv(6), cu_seqlens([6]), 6, None, backend)


@pytest.mark.parametrize("backend", ["flash2", "flash3", "flash4"])
def test_a_package_that_is_not_installed(backend, a_gpu, monkeypatch):
    a_gpu((9, 0))
    monkeypatch.setattr(backends, "_is_installed", lambda module: False)
    with pytest.raises(ValueError, match=r"is not installed; .*, or use auto"):
        resolve_backend(backend, "cuda")


def test_a_package_that_is_installed(a_gpu, monkeypatch):
    monkeypatch.setattr(backends, "_is_installed", lambda module: True)
    a_gpu((9, 0))
    assert resolve_backend("flash3", "cuda") == ("flash3", "requested")
    a_gpu((10, 0))
    with pytest.raises(
        ValueError, match=r"9\.0 or newer and older than 10\.0, but pretended has 10\.0; use auto"
    ):
        resolve_backend("flash3", "cuda")


def test_a_torch_without_windows(a_gpu, monkeypatch):
    a_gpu((9, 0))
    monkeypatch.setattr(backends.varlen, "varlen_attn", lambda query: query)
    with pytest.raises(
        ValueError, match=r"varlen_attn of torch .* has no windows; install torch 2\.11 or newer"
    ):
        resolve_backend("varlen", "cuda")


def test_whether_a_module_is_installed():
    assert backends._is_installed("torch.nn")
    assert not backends._is_installed("no_such_package.part")


def test_flash_kernels_compute_in_half_precision():
    class OnGpu:
        device = torch.device("cuda")
        dtype = torch.float32

    with pytest.raises(
        ValueError, match=r"computes in bfloat16 or float16, but.*are torch.float32; set training.precis"
    ):
        attention_module._require_flash_input(OnGpu(), "varlen")


def reference_window(left, right):
    """Translate a package's two window sizes into the reference's window and causality."""
    assert right in (left, 0)
    return None if left in (-1, None) else left, right == 0


def forward_by_reference(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, scale, left, right):
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    assert scale == q.shape[-1] ** -0.5
    out = reference(torch.stack((q, k, v), dim=1), cu_seqlens_q, *reference_window(left, right))
    return out, torch.zeros(q.shape[1], q.shape[0])


def backward_by_hand(dout, q, k, v, lse, cu_seqlens_q, left, right):
    """Call our backward pass, since autograd does not trace into an operator."""
    assert lse.shape == (q.shape[1], q.shape[0])
    window, causal = reference_window(left, right)
    qkv = torch.stack((q, k, v), dim=1)
    if window is None:
        return attention_torch._global_backward(dout, qkv, cu_seqlens_q, causal).unbind(1)
    return attention_torch._local_backward(dout, qkv, cu_seqlens_q, window, causal).unbind(1)


def flash2_fake():
    # flash_attn/flash_attn_interface.py of 2.8.3
    def _flash_attn_varlen_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal,
        window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None, return_softmax=False,
        block_table=None, leftpad_k=None, seqused_k=None, zero_tensors=False,
    ):  # fmt: skip
        assert (dropout_p, causal) == (0.0, False)
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        out, lse = forward_by_reference(q, k, v, *lengths, softmax_scale, window_size_left, window_size_right)
        return out, lse, torch.empty(0), torch.empty(2)

    def _flash_attn_varlen_backward(
        dout, q, k, v, out, softmax_lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes,
        deterministic, rng_state=None, zero_tensors=False,
    ):  # fmt: skip
        grads = backward_by_hand(
            dout, q, k, v, softmax_lse, cu_seqlens_q, window_size_left, window_size_right
        )
        for place, grad in zip((dq, dk, dv), grads, strict=True):
            place.copy_(grad)

    return {
        "flash_attn": {},
        "flash_attn.flash_attn_interface": {
            "_flash_attn_varlen_forward": _flash_attn_varlen_forward,
            "_flash_attn_varlen_backward": _flash_attn_varlen_backward,
        },
    }


def flash3_fake():
    # hopper/flash_attn_interface.py, 2026; the parameters between those named here are left at their defaults
    def _flash_attn_forward(
        q, k, v, *, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
        softmax_scale=None, causal=False, window_size_left=-1, window_size_right=-1, num_splits=1,
    ):  # fmt: skip
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        out, lse = forward_by_reference(q, k, v, *lengths, softmax_scale, window_size_left, window_size_right)
        return out, lse, torch.empty(0), torch.empty(0)

    def _flash_attn_backward(
        dout, q, k, v, out, softmax_lse, cu_seqlens_q=None, cu_seqlens_k=None, sequed_q=None, sequed_k=None,
        max_seqlen_q=None, max_seqlen_k=None, dq=None, dk=None, dv=None, softmax_scale=None, is_causal=False,
        window_size_left=-1, window_size_right=-1, softcap=0.0, deterministic=False, sm_margin=0,
    ):  # fmt: skip
        grads = backward_by_hand(
            dout, q, k, v, softmax_lse, cu_seqlens_q, window_size_left, window_size_right
        )
        for place, grad in zip((dq, dk, dv), grads, strict=True):
            place.copy_(grad)

    functions = {"_flash_attn_forward": _flash_attn_forward, "_flash_attn_backward": _flash_attn_backward}
    return {"flash_attn_interface": functions}


def flash4_fake():
    # flash_attn/cute/interface.py of 4.0 beta; the parameters between those named here are left at their defaults
    def _flash_attn_fwd(
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, seqused_q=None, seqused_k=None, max_seqlen_q=None,
        max_seqlen_k=None, page_table=None, softmax_scale=None, causal=False, softcap=None,
        window_size_left=None, window_size_right=None, *, return_lse=False,
    ):  # fmt: skip
        assert return_lse
        lengths = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        return forward_by_reference(q, k, v, *lengths, softmax_scale, window_size_left, window_size_right)

    def _flash_attn_bwd(
        q, k, v, out, dout, lse, softmax_scale=None, causal=False, softcap=0.0, window_size_left=None,
        window_size_right=None, *, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
    ):  # fmt: skip
        return backward_by_hand(dout, q, k, v, lse, cu_seqlens_q, window_size_left, window_size_right)

    functions = {"_flash_attn_fwd": _flash_attn_fwd, "_flash_attn_bwd": _flash_attn_bwd}
    return {"flash_attn": {}, "flash_attn.cute": {}, "flash_attn.cute.interface": functions}


FAKES = {"flash2": flash2_fake, "flash3": flash3_fake, "flash4": flash4_fake}


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", FAKES)
def test_flash_packages_are_called_by_their_signatures(backend, window, causal, monkeypatch):
    for name, functions in FAKES[backend]().items():
        module = types.ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    lengths = [1, 20, 9]
    cu = cu_seqlens(lengths)
    qkv = make_qkv(30, dtype=torch.float32)
    assert_equals_reference(
        lambda qkv: packed_attention(qkv, cu, 20, window, backend, causal)[0], qkv, cu, window, 1e-6, causal
    )
