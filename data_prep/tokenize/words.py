"""How near-duplicate detection and decontamination split a text into words: at white space."""

from datatrove.utils.word_tokenizers import WordTokenizer


class Words(WordTokenizer):
    """Splits texts of any language at white space; datatrove's own tokenizers need a model for each language.

    datatrove first removes case, punctuation, accents and the values of numbers.
    """

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("required by the interface; no step here splits sentences")

    span_tokenize = sent_tokenize
