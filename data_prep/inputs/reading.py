"""How the rows of a source become texts: the options of `tokenize` and `tokenizer` about inputs."""

from collections.abc import Collection
from dataclasses import dataclass

from data_prep.inputs.conditions import Condition
from data_prep.inputs.streams import UTF8, checked_encoding
from data_prep.sources import check_known_sources
from modernbert_train.store.names import is_source_name

WHOLE_FILE, LINE, BLANK_LINE = "file", "line", "blank-line"


@dataclass(frozen=True)
class Reading:
    """How to read a source."""

    text_field: str = "text"
    conditions: tuple[Condition, ...] = ()
    # what a document of a .txt file is: file, line, blank-line, or the text between; None for the file, by default
    documents: str | None = None
    encoding: str = UTF8  # of files without a byte order mark
    delimiter: str | None = None  # of a table; None for a comma, in .tsv a tab

    @property
    def fields(self) -> list[str]:
        """The names of the fields to read; the first one is that of the text."""
        return [self.text_field, *(condition.field for condition in self.conditions)]


def values_by_source(values: list[str], sources: Collection[str], option: str) -> dict[str, str | None]:
    """Find the value of an option for each source among VALUE (for all sources) and SOURCE=VALUE (overrides it).

    What precedes "=" is a source if it could be the name of one.

    Args:
        values: of the option.
        sources: names.
        option: name, for messages.

    Returns:
        The last value for each source, None without one.

    Raises:
        ValueError: A value names an unknown source.
    """
    general, special = None, {}
    for value in values:
        name, equals, rest = value.partition("=")
        if equals and is_source_name(name):
            special[name] = rest
        else:
            general = value
    check_known_sources(special, sources, option)
    return {source: special.get(source, general) for source in sources}


def make_reading(
    text_field: str | None,
    documents: str | None,
    encoding: str | None,
    delimiter: str | None,
    conditions: Collection[Condition] = (),
) -> Reading:
    """Make and check a reading from the values of options, None for the default.

    In `documents` and `delimiter`, the two characters backslash and n stand for a line feed, backslash and t for a tab.

    Returns:
        The reading.

    Raises:
        ValueError: A value is empty or unknown.
    """
    documents = None if documents is None else _unescaped(documents)
    if documents == "":
        raise ValueError("documents: '' must be file, line, blank-line, or the text that separates documents")
    delimiter = None if delimiter is None else _unescaped(delimiter)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"delimiter: {delimiter!r} must be one character, such as ';' or '\\t'")
    if text_field == "":
        raise ValueError("text-field: '' must be the name of a field")
    return Reading(
        "text" if text_field is None else text_field,
        tuple(conditions),
        documents,
        checked_encoding(UTF8 if encoding is None else encoding),
        delimiter,
    )


def _unescaped(value: str) -> str:
    return value.replace("\\n", "\n").replace("\\t", "\t")
