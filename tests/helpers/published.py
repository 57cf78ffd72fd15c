"""Published figures of the models that the shipped recipes reproduce; the recipes name the sources."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Published time of some phases: GPU-hours (GPUs x hours), and tokens/s per GPU."""

    phases: tuple[str, ...]
    gpu_hours: float
    tokens_per_s: int


@dataclass(frozen=True)
class Published:
    """Published figures of one model. `steps` is tokens / batch, for phases with a constant batch size."""

    parameters_millions: int
    tokens: dict[str, str]
    steps: dict[str, int]
    timings: tuple[Timing, ...] = ()


def ettin(parameters_millions: int, hours: float, tokens_per_s: int) -> Published:
    """2T tokens on 4 H100s, with batches of 4,608 sequences of 1,024, or the same number of tokens."""
    tokens = {"pretrain": "1.7T", "extension": "250B", "decay": "50B"}
    steps = {"extension": 52_982, "decay": 10_596}
    return Published(parameters_millions, tokens, steps, (Timing(tuple(tokens), 4 * hours, tokens_per_s),))


def mmbert(parameters_millions: int, days: float, tokens_per_s: int) -> Published:
    """3T tokens on 8 H100s; after the first phase, batches have 4,608 sequences of 8,192."""
    tokens = {"pretrain": "2.3T", "extension": "600B", "decay": "100B"}
    steps = {"extension": 15_895, "decay": 2_649}
    timing = Timing(tuple(tokens), 8 * 24 * days, tokens_per_s)
    return Published(parameters_millions, tokens, steps, (timing,))


# The figures of every recipe, by name; None for a recipe that reproduces no published model.
PUBLISHED = {
    "quickstart": None,
    "ninety-minutes": None,
    "one-gpu-one-day": None,
    "modernbert-base": Published(
        149,
        {"pretrain": "1.719T", "extension": "250B", "decay": "50B"},
        # The first is from the name of a released checkpoint, ep0-ba52988.
        {"extension": 52_988, "decay": 10_596},
        (
            Timing(("pretrain",), 8 * 194.2, 307_350),
            Timing(("extension",), 8 * 39.9, 217_560),
            Timing(("decay",), 8 * 11.5, 150_970),
        ),
    ),
    "modernbert-large": Published(
        395,
        {"pretrain": "900B", "lower-rate": "800B", "extension": "250B", "decay": "50B"},
        # ep0-ba49552, with batches of 616 sequences; 624 in the recipe. The published decay has 624 as well.
        {"extension": 49_552 * 616 // 624, "decay": 9_781},
        (
            Timing(("pretrain", "lower-rate"), 8 * 425.3, 138_790),
            Timing(("extension",), 8 * 80.7, 107_570),
            Timing(("decay",), 8 * 21.7, 80_010),
        ),
    ),
    "ettin-17m": ettin(16, 141, 985_030),
    "ettin-32m": ettin(32, 212, 655_140),
    "ettin-68m": ettin(68, 300, 462_960),
    "ettin-150m": ettin(149, 470, 295_510),
    "ettin-400m": ettin(395, 950, 146_200),
    # A third of the tokens of the others; the hours are published for the same number of tokens as theirs.
    "ettin-1b": Published(
        1_031,
        {"pretrain": "566.7B", "extension": "83.34B", "decay": "16.67B"},
        {"extension": 17_660, "decay": 3_532},
        (Timing(("pretrain", "extension", "decay"), 4 * 2_170 / 3, 64_000),),
    ),
    "mmbert-base": mmbert(307, 40, 108_510),
    "mmbert-small": mmbert(140, 10, 434_030),
    "domain-base": Published(
        149, {"field": "160.5B", "target": "8.248B"}, {"field": 34_004, "target": 1_748}
    ),
    "domain-large": Published(
        395, {"field": "160.5B", "target": "8.245B"}, {"field": 31_389, "target": 1_613}
    ),
}
