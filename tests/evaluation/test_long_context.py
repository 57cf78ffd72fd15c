"""The difference of differences by position, on losses in which it is planted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from modernbert_train.evaluation.long_context import ALL, compare_beyond, draw_positions, find_limit
from modernbert_train.evaluation.masked_lm import SourceScore
from modernbert_train.evaluation.targets import Targets
from modernbert_train.evaluation.unigram import UnigramScore

LIMIT = 1_024


def planted(
    gain: float, *, seed: int, everywhere: float = -0.4, noise: float = 0.3, source: str = "books"
) -> tuple[SourceScore, SourceScore]:
    """An extended model, better by `everywhere` and by `gain` more beyond the limit, and its twin."""
    random = np.random.default_rng(seed)
    parts = []
    for document in range(30):
        length = int(random.integers(200, 6_000))
        position = np.sort(random.choice(length, size=length // 20, replace=False)) + 1
        # Documents are of different difficulty, get harder or easier to their end, and suit a model more or less.
        own, slope = random.normal(4, 1), random.normal(0, 1e-4)
        suits = random.normal(gain, 0.05)
        loss = own + slope * position + random.normal(0, 1, len(position))
        ours = loss + everywhere + suits * (position > LIMIT) + random.normal(0, noise, len(position))
        parts.append((ours, loss, np.full(len(position), document), position, np.full(len(position), length)))
    ours, loss, document, position, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    targets = Targets(loss, loss < 3, np.zeros(len(loss), dtype=np.int64), document, position, length)
    extended = replace(targets, loss=ours)
    first, second = (
        SourceScore(
            source, 1, len(of_model), float(of_model.loss.mean()), 0.0, UnigramScore(7.0, 0.0), 100,
            model=model, targets=of_model,
        )
        for model, of_model in (("extended", extended), ("twin", targets))
    )  # fmt: skip
    return first, second


def test_a_planted_gain_is_found_and_a_better_model_alone_is_none() -> None:
    (found,) = compare_beyond(*([score] for score in planted(-0.2, seed=1)), LIMIT)
    assert found.difference == pytest.approx(-0.2, abs=0.05)
    assert found.low < found.difference < found.high < 0
    (nothing,) = compare_beyond(*([score] for score in planted(0.0, seed=2)), LIMIT)
    assert nothing.low < 0 < nothing.high
    (exact,) = compare_beyond(*([score] for score in planted(0.0, seed=3, noise=0.0)), LIMIT)
    assert abs(exact.difference) < 0.05
    again = compare_beyond(*([score] for score in planted(0.0, seed=2)), LIMIT)
    assert again == [nothing]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(40):
        (found,) = compare_beyond(*([score] for score in planted(-0.1, seed=seed)), LIMIT)
        inside += found.low <= -0.1 <= found.high
    assert inside >= 33  # 38 of 40 are expected


def test_documents_up_to_the_limit_do_not_count() -> None:
    first, second = planted(-0.2, seed=4)
    assert first.targets is not None
    assert second.targets is not None
    is_long = first.targets.length > LIMIT
    long_first = replace(first, targets=first.targets.where(is_long))
    long_second = replace(second, targets=second.targets.where(is_long))
    assert compare_beyond([first], [second], LIMIT) == compare_beyond([long_first], [long_second], LIMIT)
    short = [replace(s, targets=s.targets.where(~is_long)) for s in (first, second) if s.targets]
    assert compare_beyond(short[:1], short[1:], LIMIT) == []


def test_all_sources_together_and_the_picture() -> None:
    books, papers = planted(-0.2, seed=5), planted(-0.2, seed=6, source="papers")
    first, second = zip(books, papers, strict=True)
    gains = compare_beyond(first, second, LIMIT)
    assert [gain.source for gain in gains] == ["books", "papers", ALL]
    assert gains[2].num_documents == gains[0].num_documents + gains[1].num_documents
    assert gains[2].high - gains[2].low < gains[0].high - gains[0].low
    figure = draw_positions([*first, *second], gains)
    losses, differences = figure.axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == [
        "books: extended", "papers: extended", "books: twin", "papers: twin",
    ]  # fmt: skip
    lines = [container.lines[0] for container in differences.containers]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2, 3, 4, 5]] * 2
    drop = np.array(lines[0].get_ydata())
    assert drop[:3].mean() - drop[3:].mean() == pytest.approx(0.2, abs=0.05)
    assert [label.get_text() for label in differences.get_xticklabels()][:3] == [
        "to 128",
        "to 512",
        "to 1,024",
    ]
    assert len(draw_positions(first, []).axes) == 1


def test_which_models_are_compared() -> None:
    def model(context_tokens: int, tokenizer: str = "a") -> SimpleNamespace:
        return SimpleNamespace(
            context_tokens=context_tokens, tokenizer=SimpleNamespace(fingerprint=tokenizer)
        )

    assert find_limit([model(8_192), model(1_024)], None) == 1_024
    assert find_limit([model(8_192), model(1_024)], 512) == 512
    assert find_limit([model(8_192), model(8_192)], None) is None
    assert find_limit([model(8_192)], None) is None
    assert find_limit([model(8_192), model(1_024, "b")], None) is None
    with pytest.raises(ValueError, match=r"--beyond compares two models, and there are 3; name two"):
        find_limit([model(8_192)] * 3, 512)
    with pytest.raises(ValueError, match=r"--beyond compares the losses .* have different tokenizers; name"):
        find_limit([model(8_192), model(1_024, "b")], 512)
