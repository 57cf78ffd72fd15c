"""The result of a check, and the report as text or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

# A problem keeps a run from starting or from finishing.
Level = Literal["ok", "warning", "problem"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check. `remedy` says how to fix it; it is empty at level ok."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def as_text(findings: Sequence[Finding]) -> str:
    """Return one line for each finding, its remedy below it, and a summary."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.remedy}")
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    parts = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return "\n".join([*lines, "", " and ".join(parts) if parts else "no problems found"])


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON list, for scripts that check many nodes."""
    return json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1)
