"""Filters by column: `language=en`, `score>=3`, `web:kind!=spam`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

_CONDITION = re.compile(
    r"(?:(?P<source>[^:=<>!]+):)?(?P<field>[^:=<>!]+)(?P<operator>>=|<=|!=|=|>|<)(?P<value>.*)", re.S
)
_ORDERS = {">=": ge, "<=": le, ">": gt, "<": lt}


@dataclass(frozen=True)
class Condition:
    """One condition that a document must meet. A null meets none."""

    field: str
    operator: str
    value: str

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Whether a record meets it. ValueError: no such field; an order asked of what is no number."""
        if self.field not in record:
            fields = ", ".join(map(str, record)) or "none"
            raise ValueError(f"has no field {self.field!r} for --where; fields: {fields}")
        found = record[self.field]
        if found is None:
            return False
        if self.operator in _ORDERS:
            number = _number(found)
            if number is None:
                raise ValueError(
                    f"field {self.field!r} must be a number for --where '{self.operator}', is {found!r}"
                )
            return bool(_ORDERS[self.operator](number, float(self.value)))
        return self._equals(found) == (self.operator == "=")

    def _equals(self, found: Any) -> bool:
        if isinstance(found, bool):
            return str(found).lower() == self.value.lower()
        number = _number(self.value)
        return str(found) == self.value or (number is not None and _number(found) == number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parse_conditions(texts: list[str], sources: list[str]) -> dict[str, list[Condition]]:
    """Conditions of every source from `[SOURCE:]FIELD OPERATOR VALUE`; without a source they hold for all.

    ValueError: not of this form; a source that no input has; an order against what is no number.
    """
    conditions: dict[str, list[Condition]] = {source: [] for source in sources}
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"where: {text!r} must be [SOURCE:]FIELD=VALUE, with one of = != >= <= > <, such as 'score>=3'"
            )
        source = match["source"]
        if source is not None and source not in conditions:
            raise ValueError(f"where: no input is named {source!r}; sources: {', '.join(sources)}")
        if match["operator"] in _ORDERS and _number(match["value"]) is None:
            raise ValueError(
                f"where: {text!r} compares with {match['value']!r}, which must be a number for "
                f"{match['operator']}; allowed for text: = and !="
            )
        condition = Condition(match["field"], match["operator"], match["value"])
        for name in conditions if source is None else [source]:
            conditions[name].append(condition)
    return conditions
