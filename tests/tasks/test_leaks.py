from modernbert_train.tasks.leaks import find_leaks

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def pairs(start, stop):
    return [(f"question number {n}", f"The answer is {n}.") for n in range(start, stop)]


def test_rows_of_their_own_have_no_leak():
    found = find_leaks(["question", "sentence"], pairs(0, 50), pairs(50, 60))
    assert (found.num_rows, found.rows, found.ngrams, found.share) == (10, 0, 0, 0)
    assert found.columns == {"question": 0, "sentence": 0}


def test_planted_leaks_are_found():
    """A whole row, one text of a pair, and 13 words within other words, written otherwise."""
    valid = [
        *pairs(50, 60),
        ("Question  NUMBER 7!", "the answer: is 7"),
        ("question number 8", "The answer is 9."),
        ("why?", f"He counts: {LONG.upper()}"),
    ]
    train = [*pairs(0, 50), (f"again {LONG} fifteen", "yes")]
    found = find_leaks(["question", "sentence"], train, valid)
    assert (found.num_rows, found.rows) == (13, 1)
    assert found.columns == {"question": 2, "sentence": 2}
    assert (found.long_rows, found.ngrams, found.share) == (1, 1, 2 / 13)
    assert found.text == (
        "of 13 valid rows, in train: whole rows: 1; question: 2; sentence: 2; 13 words in a row: 1 of the 1 that are "
        "so long"
    )


def test_texts_without_words_are_not_shared():
    found = find_leaks(["a", "b"], [("...", "x")], [("?", "y")])
    assert found.columns == {"a": 0, "b": 0}


def test_a_single_column_is_the_row():
    found = find_leaks(["text"], [("A b",)], [("a B",), ("c",)])
    assert (found.rows, found.columns, found.share) == (1, {}, 0.5)
