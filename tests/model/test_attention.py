import inspect
from functools import partial
from itertools import product

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

from modernbert_train.model import attention_torch
from modernbert_train.model.attention import attention, packed_attention
from tests.helpers.packed_documents import RAGGED, cu_seqlens, relative_error
from tests.reference.attention import attention as reference

# Relative error (norm) of output and gradient against the reference in float64. bfloat16 keeps 8 bits: 0.4% for
# every rounding, of which inputs, probabilities, their gradients and the result each have one.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}


def make_qkv(num_tokens, num_heads=2, head_dim=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(num_tokens, 3, num_heads, head_dim, generator=generator, dtype=torch.float64)
    return qkv.to(dtype).requires_grad_()


def assert_equals_reference(ours, qkv, cu, window, tolerance, causal=False):
    """Compare output and gradient of `ours`, a function of qkv, with the reference's."""
    exact = qkv.detach().double().requires_grad_()
    expected = reference(exact, cu, window, causal)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = grad.to(qkv.dtype)
    expected.backward(grad.double())
    out = ours(qkv)
    assert out.dtype == qkv.dtype
    assert out.shape == expected.shape
    out.backward(grad)
    assert relative_error(out.detach(), expected.detach()) < tolerance
    assert relative_error(qkv.grad, exact.grad) < tolerance


def assert_torch_equals_reference(qkv, lengths, window, tolerance, causal):
    cu = cu_seqlens(lengths)
    assert_equals_reference(
        lambda qkv: attention(qkv, cu, max(lengths), window, "torch", causal),
        qkv,
        cu,
        window,
        tolerance,
        causal,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 64, 16, 1, 100, 200])
@pytest.mark.parametrize("causal", [False, True])
def test_torch_backend_equals_reference(window, dtype, causal):
    qkv = make_qkv(sum(RAGGED), dtype=dtype)
    assert_torch_equals_reference(qkv, RAGGED, window, TOLERANCE[dtype], causal)


@pytest.mark.parametrize("lengths", [[1], [64], [65], [5, 700, 3]])
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_torch_backend_on_few_documents(lengths, window, causal):
    assert_torch_equals_reference(make_qkv(sum(lengths)), lengths, window, 1e-13, causal)


@pytest.mark.parametrize(
    "tile", [1, 300 * 70, 2**20]
)  # some queries of one head, more of them, all heads at once
@pytest.mark.parametrize("causal", [False, True])
def test_global_layers_in_tiles(tile, causal, monkeypatch):
    monkeypatch.setattr(attention_torch, "_tile_elements", lambda dtype: tile)
    lengths = [300, 7]
    cu = cu_seqlens(lengths)
    qkv, grad = make_qkv(307, num_heads=3).detach(), make_qkv(307, num_heads=3, seed=1)[:, 0].detach()
    exact = qkv.clone().requires_grad_()
    expected = reference(exact, cu, None, causal)
    expected.backward(grad)
    torch.testing.assert_close(attention_torch._global_forward(qkv, cu, causal), expected.detach())
    torch.testing.assert_close(attention_torch._global_backward(grad, qkv, cu, causal), exact.grad)


@pytest.mark.parametrize("causal", [False, True])
def test_local_layers_in_tiles(causal, monkeypatch):
    monkeypatch.setattr(attention_torch, "_tile_elements", lambda dtype: 2 * 64 * 192)  # two blocks at a time
    assert_torch_equals_reference(make_qkv(sum(RAGGED)), RAGGED, 64, 1e-13, causal)


def test_gradcheck():
    cu = cu_seqlens([3, 1, 2])
    qkv = make_qkv(6, num_heads=1, head_dim=2)
    for window, causal in product((None, 1), (False, True)):
        assert torch.autograd.gradcheck(
            partial(attention, cu_seqlens=cu, max_seqlen=3, window=window, backend="torch", causal=causal),
            (qkv,),
        )


@pytest.mark.parametrize("position", [100, 235])  # the window to its right, to its left, across blocks
@pytest.mark.parametrize("causal", [False, True])
def test_a_token_64_away_attends_and_65_away_does_not(position, causal):
    qkv = make_qkv(300)
    out = attention(qkv, cu_seqlens([300]), 300, 64, "torch", causal)
    out[position].sum().backward()
    reached = (qkv.grad[:, 2].abs().sum((1, 2)) > 0).nonzero().squeeze(1)  # through the values
    assert reached.min() == position - 64
    assert reached.max() == (position if causal else min(299, position + 64))
    keys = (qkv.grad[:, 1].abs().sum((1, 2)) > 0).nonzero().squeeze(1)
    assert keys.tolist() == reached.tolist()


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_equals_alone(window, causal):
    lengths = [130, 1, 65]
    packed = make_qkv(sum(lengths), dtype=torch.float32)
    alone = [part.clone().requires_grad_() for part in packed.detach().split(lengths)]
    out = attention(packed, cu_seqlens(lengths), 130, window, "torch", causal)
    parts = [attention(part, cu_seqlens([len(part)]), len(part), window, "torch", causal) for part in alone]
    torch.testing.assert_close(out, torch.cat(parts), rtol=1e-6, atol=1e-6)
    out.square().sum().backward()
    torch.cat(parts).square().sum().backward()
    torch.testing.assert_close(packed.grad, torch.cat([part.grad for part in alone]), rtol=1e-5, atol=1e-6)


def test_autocast_does_not_reach_inside():
    cu = cu_seqlens([70, 3])
    for dtype in (torch.float32, torch.bfloat16):
        qkv = make_qkv(73, dtype=dtype)
        for window in (None, 64):
            outside = attention(qkv, cu, 70, window, "torch")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                inside = attention(qkv, cu, 70, window, "torch")
            assert inside.dtype == dtype
            assert torch.equal(inside, outside)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_operator_is_registered_as_it_behaves(window, dtype, causal):
    """PyTorch checks its schema, its fake implementation (for the compiler) and its gradient."""
    arguments = (make_qkv(73, dtype=dtype), cu_seqlens([70, 3]), 70, window, "torch", causal)
    torch.library.opcheck(packed_attention, arguments, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_what_is_saved_for_backward_does_not_grow_with_the_documents():
    def saved_elements(lengths, window, dtype):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()), lambda x: x):
            attention(make_qkv(sum(lengths), dtype=dtype), cu_seqlens(lengths), max(lengths), window, "torch")
        return sum(sizes) - len(lengths) - 1  # without cu_seqlens

    for dtype in (torch.float32, torch.bfloat16):
        for window in (None, 64):
            assert saved_elements([600], window, dtype) == saved_elements([6] * 100, window, dtype)


@pytest.mark.parametrize(
    ("bounds", "max_seqlen", "message"),
    [
        ([0, 3, 3, 6], 6, "empty"),
        ([0, 3, 5], 6, "end at the number of tokens, 6"),
        ([1, 3, 6], 6, "start at 0"),
        ([0, 2, 6], 3, "4 > 3"),
    ],
)
def test_wrong_segments_are_caught(bounds, max_seqlen, message):
    with pytest.raises(AssertionError, match=message):
        attention(make_qkv(6), torch.tensor(bounds, dtype=torch.int32), max_seqlen, None, "torch")


def test_wrong_shapes_are_caught():
    qkv, cu = make_qkv(6), cu_seqlens([6])
    for wrong, message in ((qkv[:, 0], "3 dimensions"), (qkv[:, :2], r"\[T, 3, H, D\]")):
        with pytest.raises(AssertionError, match=message):
            attention(wrong, cu, 6, None, "torch")
    with pytest.raises(AssertionError, match="int32"):
        attention(qkv, cu.long(), 6, None, "torch")
    with pytest.raises(AssertionError, match="positive or None"):
        attention(qkv, cu, 6, 0, "torch")


def test_varlen_attn_has_the_arguments_we_call_it_with():
    tensor = torch.zeros(1)
    inspect.signature(varlen_attn).bind(tensor, tensor, tensor, tensor, tensor, 8, 8, window_size=(64, 64))
    window = inspect.signature(varlen_attn).parameters["window_size"]
    assert window.default == (-1, -1)  # means the whole document
