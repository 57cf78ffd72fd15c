import pytest

from data_prep.tokenizer import save_tokenizer, train_tokenizer
from tests.helpers.texts import TRAINING_TEXTS


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TRAINING_TEXTS, 400), folder)
    return folder
