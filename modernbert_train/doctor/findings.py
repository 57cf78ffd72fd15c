"""What a check has found: one line, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

Level = Literal["ok", "warning", "problem"]  # a problem keeps a run from starting or from ending well


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it, which is empty where all is well."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def as_text(findings: Sequence[Finding]) -> str:
    """One line a finding, what to do beneath it, and the sum of it all."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.remedy}")
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    parts = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return "\n".join([*lines, "", " and ".join(parts) if parts else "all is well"])


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON list, for those who watch over many nodes."""
    return json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1)
