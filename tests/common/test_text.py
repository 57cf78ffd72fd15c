from modernbert_train.common.text import format_table

COLUMNS = ("source", "documents", "tokens")
ROWS = [("web/train", "1,200", "310,422"), ("code/train", "20", "9,001")]


def test_a_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert format_table(COLUMNS, ROWS).splitlines() == [
        "source      documents   tokens",
        "----------  ---------  -------",
        "web/train       1,200  310,422",
        "code/train         20    9,001",
    ]


def test_a_table_in_a_terminal_that_is_too_narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "29")
    assert format_table(COLUMNS, ROWS).splitlines() == [
        "source     web/train",
        "  documents  1,200",
        "  tokens     310,422",
        "source     code/train",
        "  documents  20",
        "  tokens     9,001",
    ]
