"""Merging of weights, one number at a time."""


def mean(models, weights):
    """Return the weighted mean of models, which are lists of numbers."""
    return [
        sum(weight * model[at] for model, weight in zip(models, weights, strict=True)) / sum(weights)
        for at in range(len(models[0]))
    ]


def ties(base, models, density):
    """TIES-Merging (2306.01708), algorithm 1, with lambda = 1."""
    changes = [[new - old for new, old in zip(model, base, strict=True)] for model in models]
    num_kept = max(1, round(density * len(base)))
    trimmed = []
    for change in changes:
        least = sorted(map(abs, change), reverse=True)[num_kept - 1]
        trimmed.append([value if abs(value) >= least else 0.0 for value in change])
    merged = []
    for at, old in enumerate(base):
        values = [change[at] for change in trimmed]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [value for value in values if value * sign > 0]
        merged.append(old + (sum(agreeing) / len(agreeing) if agreeing else 0.0))
    return merged


def moving_average(series, half_life, tokens):
    """Return the average after each number of a series; `tokens` are the tokens of each step."""
    averages, average = [], 0.0
    for num_steps, (value, step_tokens) in enumerate(zip(series, tokens, strict=True)):
        rate = max(1 - 2 ** (-step_tokens / half_life), 1 / (num_steps + 1))
        average = average * (1 - rate) + value * rate
        averages.append(average)
    return averages
