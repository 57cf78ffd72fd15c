"""Every attention backend that this GPU supports against the reference; the whole model in bfloat16, compiled too."""

import copy

import pytest
import torch
import torch._dynamo.testing

from modernbert_train.model import resolve_backend
from modernbert_train.model.attention import attention
from tests.helpers.packed_documents import (
    RAGGED,
    SMALL,
    cu_seqlens,
    perturbed_model,
    random_documents,
    relative_error,
)
from tests.model.test_attention import make_qkv
from tests.model.test_encoder import masked
from tests.reference.attention import attention as reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Relative error (norm) of output and gradient. bfloat16 keeps 8 bits, 0.4% for every rounding; float16 keeps 11.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
FLASH = ["varlen", "flash2", "flash3", "flash4"]


def require(backend):
    try:
        resolve_backend(backend, "cuda")
    except ValueError as problem:
        pytest.skip(str(problem))


@pytest.mark.parametrize("lengths", [RAGGED, [1024, 3, 1021], [1] * 5, [4096, 7, 129]])
@pytest.mark.parametrize("window", [None, 64, 32])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(backend, dtype) for backend in FLASH for dtype in (torch.bfloat16, torch.float16)]
    + [("torch", torch.float32), ("torch", torch.bfloat16)],
)
def test_backend_equals_reference(backend, dtype, causal, window, lengths):
    require(backend)
    cu = cu_seqlens(lengths).cuda()
    exact = (
        make_qkv(sum(lengths), num_heads=3, head_dim=64).detach().cuda().to(dtype).double().requires_grad_()
    )
    qkv = exact.detach().to(dtype).requires_grad_()
    grad = torch.randn(sum(lengths), 3, 64, device="cuda", dtype=dtype)
    expected = reference(exact, cu, window, causal)
    expected.backward(grad.double())
    out = attention(qkv, cu, max(lengths), window, backend, causal)
    out.backward(grad)
    assert out.dtype == dtype
    assert relative_error(out.detach(), expected.detach()) < TOLERANCE[dtype]
    assert relative_error(qkv.grad, exact.grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", FLASH)
@pytest.mark.parametrize("causal", [False, True])
def test_a_token_64_away_attends_and_65_away_does_not(backend, causal):
    require(backend)
    qkv = make_qkv(400, head_dim=64).detach().cuda().bfloat16().requires_grad_()
    out = attention(qkv, cu_seqlens([400]).cuda(), 400, 64, backend, causal)
    out[200].sum().backward()
    reached = (qkv.grad[:, 2].abs().sum((1, 2)) > 0).nonzero().squeeze(1)
    assert (reached.min().item(), reached.max().item()) == (136, 200 if causal else 264)


@pytest.mark.parametrize("backend", FLASH)
def test_max_seqlen_may_be_larger_than_the_longest_document(backend):
    require(backend)
    qkv = make_qkv(sum(RAGGED), head_dim=64).detach().cuda().bfloat16()
    cu = cu_seqlens(RAGGED).cuda()
    for window in (None, 64):
        tight, loose = (attention(qkv, cu, length, window, backend) for length in (max(RAGGED), 1024))
        torch.testing.assert_close(tight, loose)


@pytest.mark.parametrize("backend", FLASH)
@pytest.mark.parametrize("compiled", [False, True])
def test_model_in_bf16(backend, compiled):
    """Compare loss and gradient of the whole model with float32 on the CPU; it is compiled at most twice."""
    require(backend)
    torch._dynamo.reset()
    on_cpu = perturbed_model(SMALL)
    model = copy.deepcopy(on_cpu).cuda()
    model.model._backends = {"cuda": backend}
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
    loss_and_correct = (
        torch.compile(model.loss_and_correct, backend=counter, fullgraph=True)
        if compiled
        else model.loss_and_correct
    )
    for seed, lengths in enumerate(
        [[*RAGGED, 1024, 225], [1] * 24 + [1000, 1000], [512] * 3 + [488], [1024, 1000]]
    ):
        inputs = masked(random_documents(lengths, SMALL.vocab_size, seed), 300) | {"max_seqlen": 1024}
        on_gpu = {name: value.cuda() if torch.is_tensor(value) else value for name, value in inputs.items()}
        torch._dynamo.mark_dynamic(on_gpu["cu_seqlens"], 0)
        for each in (model, on_cpu):
            each.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, _ = loss_and_correct(**on_gpu)
        loss.backward()
        expected, _ = on_cpu.loss_and_correct(**inputs)
        expected.backward()
        assert relative_error(loss.detach().cpu(), expected.detach()) < 1e-3
        ours = torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()])
        theirs = torch.cat([weight.grad.flatten() for weight in on_cpu.parameters()])
        assert relative_error(ours, theirs) < 3e-2  # four layers, each with a dozen roundings to 8 bits
    assert counter.frame_count <= 2
