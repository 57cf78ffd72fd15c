"""The conditions of `--where`: `language=en`, `score>=3`, `web:kind!=spam`."""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from data_prep.inputs.fields import NoField, find_field, listed
from data_prep.sources import check_known_sources

_CONDITION = re.compile(
    r"(?:(?P<source>[^:=<>!]+):)?(?P<field>[^:=<>!]+)(?P<operator>>=|<=|!=|=|>|<)(?P<value>.*)", re.S
)
_ORDERS = {">=": ge, "<=": le, ">": gt, "<": lt}


@dataclass(frozen=True)
class Condition:
    """A condition on one field of a document, which may be inside an object: `meta.lang`. A null meets none."""

    field: str
    operator: str
    value: str

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Check whether a record meets the condition.

        Returns:
            Whether it does.

        Raises:
            ValueError: The field is missing, or <, <=, > or >= is applied to something that is not a number.
        """
        try:
            found = find_field(record, self.field)
        except NoField as error:
            raise ValueError(f"{error}, which --where names; fields: {listed(record)}") from None
        if found is None:
            return False
        if self.operator in _ORDERS:
            number = _number(found)
            if number is None:
                raise ValueError(
                    f"field {self.field!r} must be a number for --where '{self.operator}', is {reprlib.repr(found)}"
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
    except (TypeError, ValueError, OverflowError):
        return None


def parse_conditions(texts: list[str], sources: list[str]) -> dict[str, list[Condition]]:
    """Parse `[SOURCE:]FIELD OPERATOR VALUE`.

    Returns:
        The conditions of every source. A condition without a source applies to all of them.

    Raises:
        ValueError: A text of another form, an unknown source, or a value that is not a number for <, <=, > or >=.
    """
    conditions: dict[str, list[Condition]] = {source: [] for source in sources}
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"where: {text!r} must be [SOURCE:]FIELD=VALUE, with one of = != >= <= > <, such as 'score>=3'"
            )
        source = match["source"]
        if source is not None:
            check_known_sources([source], sources, "where")
        if match["operator"] in _ORDERS and _number(match["value"]) is None:
            raise ValueError(
                f"where: {text!r}: the value of {match['operator']} must be a number, is {match['value']!r}; "
                "use = or != to compare text"
            )
        condition = Condition(match["field"], match["operator"], match["value"])
        for name in conditions if source is None else [source]:
            conditions[name].append(condition)
    return conditions
