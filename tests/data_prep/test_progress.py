import io
import sys

import pytest

from data_prep.progress import progress_bar


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_is_seldom_drawn_in_a_file(monkeypatch, is_terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(range(100), miniters=1) as bar:
        bar.last_print_t -= 20  # as if 20 s had passed
        list(bar)
    assert (stream.getvalue().count("\r") > 2) == is_terminal  # first and last are always drawn
