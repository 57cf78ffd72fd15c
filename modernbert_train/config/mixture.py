"""The mixture of a phase: its three ways of being written, and what must hold."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from modernbert_train.common.text import did_you_mean
from modernbert_train.config.schema import MixtureConfig

# The keys of a mixture that are no source; each way of writing one, and the keys it has.
RESERVED = ("epochs", "temperature", "sources")
_WAYS = {"shares": ("shares",), "epochs": ("epochs",), "temperature": ("temperature", "sources")}


def spell_out(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a layer with every phase's mixture under the names of `MixtureConfig`'s fields.

    A mixture written in one way says null for the others, and so replaces one that a weaker layer has written in
    another way; two that are written in the same way are merged key by key, as everything is.
    """
    phases = values.get("phases")
    if not isinstance(phases, dict):
        return values
    spelled = {
        name: {**phase, "mixture": _spell_out_one(phase["mixture"])}
        if isinstance(phase, dict) and isinstance(phase.get("mixture"), dict)
        else phase
        for name, phase in phases.items()
    }
    return {**values, "phases": spelled}


def _spell_out_one(mixture: dict[Any, Any]) -> dict[str, Any]:
    shares = {source: share for source, share in mixture.items() if source not in RESERVED}
    given = {key: mixture[key] for key in RESERVED if key in mixture}
    if shares or not given:
        given["shares"] = shares
    ways = ways_of(given)
    others = {key: None for way, keys in _WAYS.items() if way not in ways for key in keys}
    return others | given


def ways_of(mixture: Mapping[str, Any]) -> list[str]:
    """Returns in which of the ways (shares, epochs, temperature) a spelled-out mixture is written."""
    return [way for way, keys in _WAYS.items() if any(mixture.get(key) is not None for key in keys)]


def switched_by_an_override(weaker: Any, override: Any) -> Iterator[str]:
    """Yields a problem where an override of a single source meets a mixture that is written in another way: the one
    source would quietly become the whole mixture. Both spelled out.
    """
    if not isinstance(weaker, dict) or not isinstance(override, dict):
        return
    before, now = ways_of(weaker), ways_of(override)
    if before and now and before != now and now != ["temperature"]:
        yield f"is given as {' and '.join(before)}, not as {' and '.join(now)}; give it whole: mixture={{...}}"


def written(mixture: MixtureConfig) -> dict[str, Any]:
    """Returns a mixture as a recipe writes it."""
    if mixture.epochs:
        return {"epochs": dict(mixture.epochs)}
    if mixture.temperature is None:
        return dict(mixture.shares)
    only = {} if mixture.sources is None else {"sources": list(mixture.sources)}
    return {"temperature": mixture.temperature, **only}


def in_words(mixture: Mapping[str, Any]) -> str:
    """Returns a mixture, as a recipe writes it, in a few words: `web 80%, code 20%`."""
    if "epochs" in mixture:
        return ", ".join(f"{source} x{epochs:g}" for source, epochs in mixture["epochs"].items())
    if "temperature" in mixture:
        only = f" of {', '.join(mixture['sources'])}" if mixture.get("sources") else ""
        return f"temperature {mixture['temperature']:g}{only}"
    total = sum(mixture.values())
    return ", ".join(f"{source} {share / total:.0%}" for source, share in mixture.items())


def check_mixture(mixture: MixtureConfig, sources: list[str], field: str) -> Iterator[str]:
    """Yields the problems of a phase's mixture. `sources`: those of the recipe; `field`: of the phase."""
    field = f"{field}.mixture"
    ways = [way for way in ways_of(vars(mixture)) if way == "temperature" or getattr(mixture, way)]
    if not ways:
        example = f"{{{', '.join(sources[:1])}: 1.0}}"
        yield f"{field} is empty: give each source its share of the tokens, such as {example}"
    elif len(ways) > 1:
        yield f"{field} has {' and '.join(ways)}: these are different ways to say what each source gets; keep one"
    else:
        yield from _check_numbers(mixture.shares, sources, field, "share")
        yield from _check_numbers(mixture.epochs, sources, f"{field}.epochs", "number of epochs")
        if ways == ["temperature"]:
            yield from _check_temperature(mixture, sources, field)


def _check_numbers(numbers: dict[str, float], sources: list[str], field: str, what: str) -> Iterator[str]:
    for source, number in numbers.items():
        if source not in sources:
            yield _unknown(field, source, sources)
        if not (number > 0 and math.isfinite(number)):
            yield (
                f"{field}.{source} is {number}: make the {what} a finite number above 0, or null to leave the "
                "source out"
            )


def _check_temperature(mixture: MixtureConfig, sources: list[str], field: str) -> Iterator[str]:
    temperature = mixture.temperature
    if temperature is None:
        yield f"{field}.sources says which sources a temperature is for, and there is none; add temperature"
    elif not 0 <= temperature <= 1:
        yield (
            f"{field}.temperature is {temperature}: it is the exponent of a source's tokens, from 0 (all sources "
            "alike) to 1 (in proportion to size); for a temperature T of 1 and above write 1/T"
        )
    if mixture.sources is None:
        return
    if not mixture.sources:
        yield f"{field}.sources is empty: name some, or leave it out for all"
    if len(set(mixture.sources)) < len(mixture.sources):
        yield f"{field}.sources is {mixture.sources}: name each source once"
    yield from (
        _unknown(f"{field}.sources", name, sources) for name in mixture.sources if name not in sources
    )


def _unknown(field: str, source: str, sources: list[str]) -> str:
    hint = did_you_mean(source, sources) or f"; there is {', '.join(sources) or 'none'}"
    return f"{field} names {source!r}, which is not in data.sources{hint}"
