import pytest

from modernbert_train.cli import main
from modernbert_train.config import ModelConfig
from modernbert_train.planning.cost import describe_hours, estimate_tokens_per_s, gpu_hours
from modernbert_train.schedule import build_schedule
from tests.helpers.little_recipe import a_phase, a_recipe


def plan(**fields):
    """Of one phase with 3.6 million steps of 128 tokens."""
    return build_schedule(a_recipe(a_phase(tokens=128 * 3_600_000, **fields)))


def test_hours_at_a_given_speed():
    (phase,) = plan().phases
    assert gpu_hours(phase, 1_000) == 128
    assert describe_hours(ModelConfig(), plan(), 1_000) == (
        "128.0 GPU-hours (16.0 on 8 GPUs, 4.0 on 32 GPUs), at the tokens/s given"
    )


def test_an_estimate_for_documents_of_the_whole_context():
    model = ModelConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4
    )
    (phase,) = plan(mask_rate=0.5).phases
    # 6 x (4 x 64 + 3 x 32 + 0.5 x (64 + 512)) + 12 x 8 x 16 tokens that each of a document of 16 sees
    flops = 6 * (256 + 96 + 288) + 12 * 8 * 16
    assert flops == 5_376
    assert estimate_tokens_per_s(model, phase) == 0.3 * 989e12 / 5_376


def test_little_is_said_to_be_little():
    text = describe_hours(ModelConfig(), build_schedule(a_recipe()), None)
    assert text.startswith("<0.1 GPU-hours (<0.1 on 8 GPUs, ")
    assert text.endswith("estimated at 30% of an H100's peak")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens-per-second", "9"], "--tokens-per-second is used by --dry-run only; add --dry-run"),
        (
            ["--dry-run", "--tokens-per-second", "0"],
            "--tokens-per-second: 0 is not allowed: must be a number",
        ),
    ],
)
def test_a_speed_that_is_of_no_use(tiny, capsys, arguments, message):
    try:
        status = main(["train", str(tiny), *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
