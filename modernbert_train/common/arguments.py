"""Command lines: argparse with errors of one line that name the nearest command or option, and help that fits."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from modernbert_train.common.redaction import redact
from modernbert_train.common.text import did_you_mean

EXAMPLES = "examples:"

# A word of a command line: quotes may hold spaces.
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
# The first column of a line of two, such as an exit code and its meaning.
_FIRST_COLUMN = re.compile(r" *\S+ {2,}")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and examples where they fit the terminal, and wraps the others.

    An example is continued with a backslash, so that it can be copied all the same.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        in_examples = False
        for line in text.splitlines():
            in_examples = line == EXAMPLES or (in_examples and line != "")
            if len(line) <= width:
                lines.append(line)
            elif in_examples:
                lines += _wrap_command(line, width)
            else:
                column = _FIRST_COLUMN.match(line)
                lines += textwrap.wrap(line, width, subsequent_indent=" " * (column.end() if column else 0))
        return "\n".join(indent + line for line in lines)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:  # `NAME ...`, where argparse writes `NAME [NAME ...]`
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


def _wrap_command(line: str, width: int) -> list[str]:
    """Wrap a shell command between its words."""
    start = line[: len(line) - len(line.lstrip())]
    lines, current = [], start
    for word in _WORD.findall(line):
        if current.strip() and len(current) + len(word) + len(" \\") > width:
            lines.append(f"{current}\\")
            current = f"{start}    "
        current += f"{word} "
    return [*lines, current.rstrip()]


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line. A program that is called without a command prints its help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **settings})
        self._subparsers_action: Any = None  # argparse has no public name for its type

    def add_subparsers(self, **settings: Any) -> Any:  # argparse's own signature is overloaded
        """Add commands. `options.run`, the function of the chosen one, prints the help if none is chosen."""
        self.set_defaults(run=self._no_command)
        self._subparsers_action = super().add_subparsers(**settings)
        return self._subparsers_action

    def _no_command(self, _: argparse.Namespace) -> int:
        self.print_help()
        return 2

    def parse_known_args(  # type: ignore[override]  # a namespace of another type is not needed here
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what is known; exit with an error for an unknown command or option.

        Returns:
            The options, and positional arguments that are left.
        """
        options, left = super().parse_known_args(args, namespace)
        for place, word in enumerate(left):
            if word.startswith("-"):
                self.error(self.explain(word, left[place + 1 :]))
        return options, left

    def explain(self, word: str, following: Sequence[str]) -> str:
        """Return what is wrong with an option that there is not.

        Args:
            word: the option, perhaps with `=value`.
            following: the arguments after it that are left as well.

        Returns:
            The error, with the nearest option.
        """
        name = word.partition("=")[0]
        own = [option for action in self._actions for option in action.option_strings if len(option) > 2]
        return f"there is no option {name}{did_you_mean(name, own)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action is self._subparsers_action and value not in action.choices:
            commands = list(action.choices)
            hint = did_you_mean(value, commands) or f"; commands: {', '.join(commands)}"
            self.error(f"there is no command {value!r}{hint}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Print an error of one line, with where to find help, and exit with code 2."""
        self.exit(2, f"error: {redact(message)} (see `{self.prog} --help`)\n")
