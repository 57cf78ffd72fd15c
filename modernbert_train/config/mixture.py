"""The three forms of a phase's mixture: reading, checking and describing them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from modernbert_train.common.text import did_you_mean
from modernbert_train.config.schema import MixtureConfig

# The keys of a mixture that are not sources, and the fields of each form.
RESERVED = ("epochs", "temperature", "sources")
_FORMS = {"shares": ("shares",), "epochs": ("epochs",), "temperature": ("temperature", "sources")}


def spell_out_mixtures(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a file or override with every phase's mixture under the fields of `MixtureConfig`.

    The fields of all other forms become null. A mixture therefore replaces an earlier one of another form, whereas two
    of the same form are merged key by key like everything else.
    """
    phases = values.get("phases")
    if not isinstance(phases, dict):
        return values
    spelled_out = {
        name: {**phase, "mixture": _spell_out(phase["mixture"])}
        if isinstance(phase, dict) and isinstance(phase.get("mixture"), dict)
        else phase
        for name, phase in phases.items()
    }
    return {**values, "phases": spelled_out}


def _spell_out(mixture: dict[Any, Any]) -> dict[str, Any]:
    shares = {source: share for source, share in mixture.items() if source not in RESERVED}
    given = {key: mixture[key] for key in RESERVED if key in mixture}
    if shares or not given:
        given["shares"] = shares
    forms = forms_of(given)
    others = {key: None for form, keys in _FORMS.items() if form not in forms for key in keys}
    return others | given


def forms_of(mixture: Mapping[str, Any]) -> list[str]:
    """Return the forms (shares, epochs, temperature) in which a spelled-out mixture is written."""
    return [form for form, keys in _FORMS.items() if any(mixture.get(key) is not None for key in keys)]


def check_switch(earlier: Any, override: Any) -> Iterator[str]:
    """Yield a problem if an override of a single source meets a mixture of another form.

    The one source would silently become the whole mixture. Both arguments are spelled out.
    """
    if not isinstance(earlier, dict) or not isinstance(override, dict):
        return
    before, now = forms_of(earlier), forms_of(override)
    if before and now and before != now and now != ["temperature"]:
        yield (
            f"the base recipe writes this mixture as {' and '.join(before)}; to switch to {' and '.join(now)}, "
            "override the whole mixture: mixture={...}"
        )


def as_written(mixture: MixtureConfig) -> dict[str, Any]:
    """Return a mixture as YAML writes it."""
    if mixture.epochs:
        return {"epochs": dict(mixture.epochs)}
    if mixture.temperature is None:
        return dict(mixture.shares)
    only = {} if mixture.sources is None else {"sources": list(mixture.sources)}
    return {"temperature": mixture.temperature, **only}


def describe_mixture(mixture: Mapping[str, Any]) -> str:
    """Return a mixture, as YAML writes it, in a few words: `web 80%, code 20%`."""
    if "epochs" in mixture:
        return ", ".join(f"{source} x{epochs:g}" for source, epochs in mixture["epochs"].items())
    if "temperature" in mixture:
        only = f" of {', '.join(mixture['sources'])}" if mixture.get("sources") else ""
        return f"temperature {mixture['temperature']:g}{only}"
    total = sum(mixture.values())
    return ", ".join(f"{source} {share / total:.0%}" for source, share in mixture.items())


def check_mixture(mixture: MixtureConfig, sources: list[str], phase: str) -> Iterator[str]:
    """Yield the problems of the mixture of `phase`, such as `phases.pretrain`; `sources` are those of the recipe."""
    field = f"{phase}.mixture"
    forms = [form for form in forms_of(vars(mixture)) if form == "temperature" or getattr(mixture, form)]
    if not forms:
        example = f"{{{', '.join(sources[:1])}: 1.0}}"
        yield f"{field} is empty: give each source a share of the tokens, such as {example}"
    elif len(forms) > 1:
        yield f"{field} has {' and '.join(forms)}: these are different forms of a mixture; keep one of them"
    else:
        yield from _check_numbers(mixture.shares, sources, field)
        yield from _check_numbers(mixture.epochs, sources, f"{field}.epochs")
        if forms == ["temperature"]:
            yield from _check_temperature(mixture, sources, field)


def _check_numbers(numbers: dict[str, float], sources: list[str], field: str) -> Iterator[str]:
    for source, number in numbers.items():
        if source not in sources:
            yield _unknown(field, source, sources)
        if not (number > 0 and math.isfinite(number)):
            yield f"{field}.{source} is {number}: must be a finite number above 0, or null to leave out the source"


def _check_temperature(mixture: MixtureConfig, sources: list[str], field: str) -> Iterator[str]:
    temperature = mixture.temperature
    if temperature is None:
        yield f"{field}.sources is set, but {field}.temperature is not; set both, or neither"
    elif not 0 <= temperature <= 1:
        yield (
            f"{field}.temperature is {temperature}: must be from 0 (equal shares) to 1 (proportional to size), as the "
            "exponent of a source's tokens; for a temperature T of at least 1, write 1/T"
        )
    if mixture.sources is None:
        return
    if not mixture.sources:
        yield f"{field}.sources is empty: name at least one source, or leave it out for all"
    if len(set(mixture.sources)) < len(mixture.sources):
        yield f"{field}.sources is {mixture.sources}: name each source once"
    yield from (
        _unknown(f"{field}.sources", name, sources) for name in mixture.sources if name not in sources
    )


def _unknown(field: str, source: str, sources: list[str]) -> str:
    hint = did_you_mean(source, sources) or f"; the sources are {', '.join(sources) or 'none'}"
    return f"{field} names {source!r}, which is not in data.sources{hint}"
