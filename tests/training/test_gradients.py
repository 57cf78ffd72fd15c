"""The gradient does not depend on how the batch is divided: micro-batches of 1, 2, 4 rows, 1 and 2 processes."""

import pytest
import torch

from modernbert_train.config import load_recipe
from tests.helpers.gradients import first_gradient, save_first_gradient
from tests.helpers.recipes import make_tiny
from tests.helpers.spawned import on_ranks


@pytest.fixture(scope="module", params=["mlm", "clm"])
def tiny(tmp_path_factory, request):
    recipe = make_tiny(tmp_path_factory.mktemp("gradients"))
    phase = "  pretrain:\n"
    recipe.write_text(recipe.read_text().replace(phase, f"{phase}    objective: {request.param}\n"))
    return recipe


def overrides(micro_batch_rows: int) -> list[str]:
    return [f"phases.pretrain.micro_batch_tokens={256 * micro_batch_rows}", "model.attn_out_dropout=0"]


@pytest.fixture(scope="module")
def whole(tiny):
    """The gradients of a step of 4 rows in a single micro-batch."""
    return first_gradient(load_recipe(tiny, overrides(4)))


def assert_same_gradient(gradients, whole):
    assert set(gradients) == set(whole) != set()
    for name, expected in whole.items():
        error = (gradients[name] - expected).norm() / expected.norm()
        assert error < 1e-6, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("rows", [1, 2])
def test_micro_batches_do_not_matter(tiny, whole, rows):
    assert_same_gradient(first_gradient(load_recipe(tiny, overrides(rows))), whole)


def test_a_micro_batch_filled_up_with_padding_does_not_matter(tiny, whole):
    """The first batch of the ramp has 4 rows: with micro-batches of 8 rows, half of the slots are padding."""
    assert_same_gradient(first_gradient(load_recipe(tiny, overrides(8))), whole)


def test_the_comparison_can_fail(tiny, whole):
    other = first_gradient(load_recipe(tiny, [*overrides(4), "seed=18"]))
    with pytest.raises(AssertionError, match="relative error"):
        assert_same_gradient(other, whole)


@pytest.mark.parametrize("rows", [1, 2])
def test_two_processes_do_not_matter(tiny, whole, tmp_path, rows):
    arguments = (tiny, tmp_path / "gradients.pt", overrides(rows))
    assert on_ranks(save_first_gradient, [arguments] * 2) == ["ended well"] * 2
    assert_same_gradient(torch.load(tmp_path / "gradients.pt"), whole)
