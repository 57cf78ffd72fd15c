"""The table of `make test-faults`: printed at the end, and written to build/test-faults.md."""

import tests.helpers.quiet_composer  # noqa: F401
from modernbert_train.common.text import markdown_table

COLUMNS = ("fault", "tries", "ranks", "outcome", "seconds", "processes left", "shared memory left")


def pytest_terminal_summary(terminalreporter, config):
    found: dict[str, list[dict]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "fault":
                found.setdefault(value["kind"], []).append(value)
    if not found:
        return
    table = markdown_table(COLUMNS, [[kind, *_cells(tries)] for kind, tries in found.items()])
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
    file = config.rootpath / "build/test-faults.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(table + "\n")


def _cells(tries: list[dict]) -> list[str]:
    seconds = [value["seconds"] for value in tries]
    return [
        str(len(tries)),
        ", ".join(str(value["ranks"]) for value in tries),
        "; ".join(dict.fromkeys(value["outcome"] for value in tries)),
        f"{min(seconds):.1f} to {max(seconds):.1f}",
        str(sum(value["processes"] for value in tries)),
        str(sum(value["memory"] for value in tries)),
    ]
