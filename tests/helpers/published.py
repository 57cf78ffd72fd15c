"""The figures of the models that the shipped recipes are of, as published. Where from, the recipes say."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """Of one model: parameters in millions, phase -> tokens, phase -> steps (tokens / batch where the batch does not
    grow), and GPU-hours (GPUs x hours) by phases.
    """

    parameters_millions: int
    tokens: dict[str, str]
    steps: dict[str, int]
    gpu_hours: dict[tuple[str, ...], float] = field(default_factory=dict)


def ettin(parameters_millions: int, hours: float) -> Published:
    """2T tokens on 4 H100, with 4,608 sequences of 1,024, or as many tokens, in a batch."""
    tokens = {"pretrain": "1.7T", "extension": "250B", "decay": "50B"}
    steps = {"extension": 52_982, "decay": 10_596}
    return Published(parameters_millions, tokens, steps, {tuple(tokens): 4 * hours})


def mmbert(parameters_millions: int, days: float) -> Published:
    """3T tokens on 8 H100, after the first phase with 4,608 sequences of 8,192 in a batch."""
    tokens = {"pretrain": "2.3T", "extension": "600B", "decay": "100B"}
    steps = {"extension": 15_895, "decay": 2_649}
    return Published(parameters_millions, tokens, steps, {tuple(tokens): 8 * 24 * days})


# A Published for every recipe, by name; None for one that is of no published model.
PUBLISHED = {
    "quickstart": None,
    "one-gpu-one-day": None,
    "modernbert-base": Published(
        149,
        {"pretrain": "1.719T", "extension": "250B", "decay": "50B"},
        {
            "extension": 52_988,
            "decay": 10_596,
        },  # the first from the name of a released checkpoint, ep0-ba52988
        {("pretrain",): 8 * 194.2, ("extension",): 8 * 39.9, ("decay",): 8 * 11.5},
    ),
    "modernbert-large": Published(
        395,
        {"pretrain": "900B", "lower-rate": "800B", "extension": "250B", "decay": "50B"},
        # ep0-ba49552, in batches of 616 sequences; 624 here. The decay has 624 there too.
        {"extension": 49_552 * 616 // 624, "decay": 9_781},
        {("pretrain", "lower-rate"): 8 * 425.3, ("extension",): 8 * 80.7, ("decay",): 8 * 21.7},
    ),
    "ettin-17m": ettin(16, 141),
    "ettin-32m": ettin(32, 212),
    "ettin-68m": ettin(68, 300),
    "ettin-150m": ettin(149, 470),
    "ettin-400m": ettin(395, 950),
    "ettin-1b": Published(  # a third of the tokens of the others, and of the hours for as many as theirs
        1_031,
        {"pretrain": "566.7B", "extension": "83.34B", "decay": "16.67B"},
        {"extension": 17_660, "decay": 3_532},
        {("pretrain", "extension", "decay"): 4 * 2_170 / 3},
    ),
    "mmbert-base": mmbert(307, 40),
    "mmbert-small": mmbert(140, 10),
    "domain-base": Published(
        149, {"field": "160.5B", "target": "8.248B"}, {"field": 34_004, "target": 1_748}
    ),
    "domain-large": Published(
        395, {"field": "160.5B", "target": "8.245B"}, {"field": 31_389, "target": 1_613}
    ),
}
