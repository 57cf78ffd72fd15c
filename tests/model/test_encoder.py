import copy
from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F

from modernbert_train.model import ModernBertForMaskedLM
from modernbert_train.model.layers import AttentionInputs
from modernbert_train.model.rope import RotaryEmbedding, apply_rotary
from tests.helpers.packed_documents import (
    RAGGED,
    SMALL,
    Packed,
    perturbed_model,
    random_documents,
    relative_error,
)

TINY = replace(SMALL, vocab_size=64, hidden_size=32, num_hidden_layers=2, intermediate_size=48)


def masked(packed, num_targets, seed=0):
    """Return inputs of `loss_and_correct`; the last label is ignored."""
    inputs = packed.inputs()
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(len(inputs["input_ids"]), generator=generator)[:num_targets].sort().values
    labels = inputs["input_ids"][positions]
    labels[-1] = -100
    return inputs | {"target_positions": positions, "labels": labels}


def test_packed_equals_alone():
    packed = random_documents(RAGGED, TINY.vocab_size)
    model = perturbed_model(TINY)
    logits = model(**packed.inputs())
    logits.square().mean().backward()
    grads = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    alone = torch.cat([model(**Packed([document]).inputs()) for document in packed.documents])
    alone.square().mean().backward()
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)
    for weight, grad in zip(model.parameters(), grads, strict=True):
        assert relative_error(grad, weight.grad) < 1e-5


def test_order_of_documents_does_not_matter():
    packed = random_documents([7, 100, 1, 64], TINY.vocab_size)
    model = perturbed_model(TINY)
    logits = model(**packed.inputs()).split([7, 100, 1, 64])
    turned = model(**Packed(packed.documents[::-1]).inputs())
    torch.testing.assert_close(torch.cat(logits[::-1]), turned, rtol=1e-5, atol=1e-5)


def test_logits_at_masked_positions_only():
    packed = random_documents([20, 13], TINY.vocab_size)
    model = perturbed_model(TINY)
    positions = torch.tensor([0, 5, 19, 20, 32])
    some = model(**packed.inputs(), target_positions=positions)
    torch.testing.assert_close(some, model(**packed.inputs())[positions], rtol=1e-5, atol=1e-5)


def test_loss_and_correct():
    inputs = masked(random_documents([20, 13], TINY.vocab_size), 10)
    model = perturbed_model(TINY)
    loss, num_correct = model.loss_and_correct(**inputs)
    labels = inputs.pop("labels")
    logits = model(**inputs)
    expected = sum(F.cross_entropy(logits[i], labels[i]) for i in range(9))  # the tenth is ignored
    torch.testing.assert_close(loss, expected)
    assert loss.dtype == torch.float32
    assert num_correct.dtype == torch.int64
    assert int(num_correct) == sum(int(logits[i].argmax() == labels[i]) for i in range(9))


def test_correct_predictions_are_counted():
    inputs = masked(random_documents([20, 13], TINY.vocab_size), 10)
    model = perturbed_model(TINY)
    inputs["labels"] = model(**{k: v for k, v in inputs.items() if k != "labels"}).argmax(dim=-1)
    inputs["labels"][:3] = -100
    assert int(model.loss_and_correct(**inputs)[1]) == 7


def test_no_masked_token_in_a_batch():
    inputs = masked(random_documents([20, 13], TINY.vocab_size), 4)
    inputs["labels"].fill_(-100)
    loss, num_correct = perturbed_model(TINY).loss_and_correct(**inputs)
    loss.backward()
    assert (loss.item(), num_correct.item()) == (0.0, 0)


def test_bf16_autocast_is_near_float32():
    # bfloat16 products under a float32 residual stream: the error is about half a percent of the logits' norm.
    inputs = random_documents(RAGGED, SMALL.vocab_size).inputs()
    model = perturbed_model(SMALL)
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**inputs)
        loss, _ = model.loss_and_correct(**masked(random_documents(RAGGED, SMALL.vocab_size), 50))
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert relative_error(logits, expected) < 2e-2


def test_dropout_only_in_training():
    inputs = random_documents([50], TINY.vocab_size).inputs()
    model = perturbed_model(TINY)
    assert torch.equal(model(**inputs), model(**inputs))
    model.train()
    assert not torch.equal(model(**inputs), model(**inputs))
    without = ModernBertForMaskedLM(replace(TINY, attn_out_dropout=0.0)).train()
    without.load_state_dict(model.state_dict())
    torch.testing.assert_close(without(**inputs), model.eval()(**inputs), rtol=1e-5, atol=1e-5)


def test_dropout_comes_after_the_output_projection():
    attention = perturbed_model(TINY).model.layers[1].attn.train()
    hidden, rotary = torch.randn(40, 32), RotaryEmbedding(16, 1e4, 1e4)(torch.arange(40))[1]
    inputs = AttentionInputs(rotary, torch.tensor([0, 40], dtype=torch.int32), 40, "torch", causal=False)
    out = attention(hidden, inputs)
    dropped = (out == 0).float().mean()
    assert 0.05 < dropped < 0.15  # of 1,280 elements: 0.1 and three standard deviations are 0.075 to 0.125
    kept = attention.eval()(hidden, inputs)
    torch.testing.assert_close(out[out != 0], kept[out != 0] / 0.9)


def test_set_rope_theta_equals_building_with_it():
    inputs = random_documents([300], TINY.vocab_size).inputs()
    model = perturbed_model(TINY)
    before = model(**inputs)
    buffers = list(model.buffers())
    model.set_rope_theta(500.0, 70.0)
    assert all(
        new is old for new, old in zip(model.buffers(), buffers, strict=True)
    )  # in place, so nothing is recompiled
    built = ModernBertForMaskedLM(replace(TINY, global_rope_theta=500.0, local_rope_theta=70.0)).eval()
    built.load_state_dict(model.state_dict())  # without the thetas, which are not part of it
    assert torch.equal(model(**inputs), built(**inputs))
    assert not torch.equal(model(**inputs), before)


def test_rotation_by_hand():
    # One head of four dimensions, theta 100: angles 1 and 0.1 a position. Position 2 turns dimensions (0, 2) by 2
    # and (1, 3) by 0.2.
    tables, _ = RotaryEmbedding(4, 100.0, 1.0)(torch.tensor([0, 2]))
    qkv = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, 3, 1, 4)
    rotated = apply_rotary(qkv, tables)
    angles = torch.tensor([2.0, 0.2])
    expected = torch.cat((angles.cos(), angles.sin()))
    assert torch.equal(rotated[0], qkv[0])
    torch.testing.assert_close(rotated[1, 0, 0], expected)
    torch.testing.assert_close(rotated[1, 1, 0], expected)
    assert torch.equal(rotated[1, 2], qkv[1, 2])  # values are not rotated


def test_gradient_of_the_rotation():
    tables, _ = RotaryEmbedding(4, 100.0, 1.0).double()(torch.tensor([0, 1, 7]))
    qkv = torch.randn(3, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda qkv: apply_rotary(qkv, tables), (qkv.requires_grad_(),))


def run_compiled(backend, config=TINY):
    """Run five batches of 256 tokens with different numbers of documents and thetas; return the number of graphs."""
    torch._dynamo.reset()
    model = perturbed_model(config)
    eager = copy.deepcopy(model)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(model.loss_and_correct, backend=counter, fullgraph=True)
    for step, lengths in enumerate(
        ([100, 156], [10, 20, 30, 40, 156], [256], [1] * 56 + [200], [50] * 5 + [6])
    ):
        inputs = masked(random_documents(lengths, config.vocab_size, seed=step), 77, seed=step)
        inputs["max_seqlen"] = 256
        torch._dynamo.mark_dynamic(inputs["cu_seqlens"], 0)
        for each in (model, eager):
            each.set_rope_theta(10_000.0 * (1 + step), 10_000.0)
            each.zero_grad()
        loss, num_correct = compiled(**inputs)
        loss.backward()
        expected, expected_correct = eager.loss_and_correct(**inputs)
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        assert num_correct == expected_correct
        for weight, other in zip(model.parameters(), eager.parameters(), strict=True):
            assert relative_error(weight.grad, other.grad) < 1e-5
    return counter.frame_count


def test_one_graph_for_any_number_of_documents():
    # aot_eager traces and differentiates but does not generate code, which would take long.
    assert run_compiled("aot_eager") == 1


def test_another_graph_for_causal_attention_and_the_same_again():
    torch._dynamo.reset()
    model = perturbed_model(TINY)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(model.loss_and_correct, backend=counter, fullgraph=True)
    inputs = masked(random_documents([100, 156], TINY.vocab_size), 77)
    for causal, graphs in ((True, 1), (False, 2), (True, 2)):
        model.set_causal(causal)
        torch.testing.assert_close(compiled(**inputs), model.loss_and_correct(**inputs))
        assert counter.frame_count == graphs


@pytest.mark.slow
def test_compiled():
    assert run_compiled("inductor") == 1
