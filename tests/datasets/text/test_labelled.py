"""Labelled texts and vocabularies of words: two kinds of lines, splits without repeated texts, batches by number."""

import gzip

import numpy as np
import pytest

from sparsity_tf.datasets import LabelledBatches, LabelledText, WordVocabulary, labelled_text, word_vocabulary
from sparsity_tf.datasets.text.words import split_words


def array(tensor):
    return np.asarray(tensor)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.tsv").write_text("good\tA fine film.\nbad\tdull, dull, dull\ngood\tfine FINE work\n")
    (tmp_path / "dev.tsv").write_text("bad\ta dull end\ngood\ta  fine film .\n")
    (tmp_path / "test.tsv").write_text("good\tsuperb film")
    return tmp_path


def ratings(count=50):
    lines = [f"{n}\t{(n % 5) - 2}.5\ttext number {n}, rated" for n in range(1, count + 1)]
    return "\r\n".join([*lines, "51\t0.0\tneither good nor bad", "52\t1.0\tText number 1, RATED"]) + "\r\n"


def test_words_are_letters_digits_and_single_signs():
    assert split_words("It\u2019s a 7/10 na\u00efve caf\u00e9 -- don't!") == (
        ["it's", "a", "7", "/", "10", "na\u00efve", "caf\u00e9", "-", "-", "don't", "!"]
    )
    assert split_words(" \t") == []


def test_a_vocabulary_numbers_the_frequent_words_first():
    vocabulary = word_vocabulary(["b a b", "c b a", "d"])
    assert vocabulary.ids == {"<padding>": 0, "<unknown>": 1, "b": 2, "a": 3, "c": 4, "d": 5}
    assert vocabulary.encode("a B e") == [3, 2, 1] and vocabulary.size == 6
    assert list(word_vocabulary(["b a b", "c b a", "d"], size=4).ids) == ["<padding>", "<unknown>", "b", "a"]
    assert list(word_vocabulary(["b a b", "c b a", "d"], min_count=3).ids) == ["<padding>", "<unknown>", "b"]


def test_a_renumbered_vocabulary_gives_the_new_ids_and_is_saved(tmp_path):
    vocabulary = word_vocabulary(["b a b", "c b a", "d"])
    # Words a and d are dead. The unknown word lives, so their common id is not its id, and both are listed.
    small = vocabulary.renumbered(np.array([0, 1, 2, 4, 3, 4]))
    assert small.encode("a b c d e") == [4, 2, 3, 4, 1] and small.size == 5
    # If the unknown word is dead, too, dead words need no entry.
    smaller = vocabulary.renumbered(np.array([0, 3, 1, 3, 2, 3]))
    assert smaller.ids == {"<padding>": 0, "<unknown>": 3, "b": 1, "c": 2}
    assert smaller.encode("a b c d e") == [3, 1, 2, 3, 3]
    smaller.save(tmp_path / "words.tsv")
    assert WordVocabulary.load(tmp_path / "words.tsv").ids == smaller.ids
    assert (tmp_path / "words.tsv").read_text().splitlines()[:2] == ["<padding>\t0", "<unknown>\t3"]


@pytest.mark.parametrize(
    "ids",
    [{}, {"<padding>": 1, "<unknown>": 0}, {"<padding>": 0, "<unknown>": 2}, {"<padding>": 0, "<unknown>": "1"}, 5],
)
def test_a_wrong_vocabulary_is_refused(ids):
    with pytest.raises(ValueError, match="`ids` must"):
        WordVocabulary(ids)


@pytest.mark.parametrize("text", ["<padding>\t0\nword", "<padding>\t0\nword\tx\n", "<padding>\t0\n<unknown>\t7\n", ""])
def test_a_damaged_vocabulary_file_is_an_error_that_names_it(text, tmp_path):
    (tmp_path / "words.tsv").write_text(text)
    with pytest.raises(ValueError, match="words.tsv"):
        WordVocabulary.load(tmp_path / "words.tsv")


def test_a_folder_has_a_file_for_each_split_and_repeated_texts_are_left_out(folder):
    text = labelled_text(folder)
    assert text.classes == ("bad", "good")
    assert [array(labels).tolist() for _, labels in (text.train, text.validation, text.test)] == [[1, 0, 1], [0], [1]]
    assert list(text.vocabulary.ids)[2:5] == ["dull", "fine", ","]
    assert text.vocabulary.encode("superb film") == [1, text.vocabulary.ids["film"]]
    assert text.test[0][0].tolist() == [1, text.vocabulary.ids["film"]]
    assert "dev.tsv" in text.source and "1 repeated or neutral texts left out" in text.source


def test_ratings_become_two_classes_and_one_file_three_splits(tmp_path):
    with gzip.open(tmp_path / "reviews.txt.gz", "wt", newline="") as file:
        file.write(ratings())
    text = labelled_text(tmp_path / "reviews.txt.gz", held_out=0.2, split_seed=3)
    parts = (text.train, text.validation, text.test)
    assert [len(labels) for _, labels in parts] == [30, 10, 10]
    assert text.classes == ("negative", "positive") and "; 2 repeated or neutral" in text.source
    # Of the ratings -2.5, -1.5, 0.5, 1.5 and 2.5 two are negative.
    assert sum(int((labels == 0).sum()) for _, labels in parts) == 20
    whole = [tuple(words) for words, _ in parts for words in words]
    assert len(whole) == 50
    again, other = (labelled_text(tmp_path / "reviews.txt.gz", held_out=0.2, split_seed=seed) for seed in (3, 4))
    assert again.vocabulary.ids == text.vocabulary.ids
    assert [list(words) for words in again.test[0]] == [list(words) for words in text.test[0]]
    assert other.vocabulary.ids != text.vocabulary.ids


@pytest.mark.parametrize(
    "content,message",
    [
        ("good\tfine\nbad dull\n", "line 2: must be label<TAB>text"),
        ("good\tfine\nbad\t1\tdull\n", "line 2: must be label<TAB>text"),
        ("1\tmuch\tfine\n", "line 1: the rating must be a number. Found: 'much'"),
        ("1\tnan\tfine\n", "line 1: the rating must be a number"),
        ("\tfine\n", "line 1: the label is empty"),
        ("", "split train is empty|hold more texts"),
        ("good\tfine\nbad\tdull\n", "hold more texts: split"),
        ("".join(f"good\ttext {n}\n" for n in range(20)), "must have at least two classes. Found: good"),
        (b"good\tfine\xff\n", "is no UTF-8 text: byte 9"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_line(content, message, tmp_path):
    (tmp_path / "texts.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        labelled_text(tmp_path / "texts.tsv")


def test_a_class_without_training_texts_and_a_missing_file_are_errors(folder):
    (folder / "test.tsv").write_text("ugly\tthe film\n")
    with pytest.raises(ValueError, match="no training text has the class 'ugly'"):
        labelled_text(folder)
    with pytest.raises(FileNotFoundError, match="`data_dir` must be a file or a folder.*vaderSentiment==3.3.2"):
        labelled_text(folder / "nothing.tsv")
    (folder / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="valid or dev"):
        labelled_text(folder)


def small_text():
    train = tuple(np.arange(2, 2 + n, dtype=np.int32) for n in (1, 2, 3, 4, 5)), np.array([0, 1, 0, 1, 1], np.int32)
    held = (np.array([2, 3], np.int32),) * 3, np.array([0, 1, 1], np.int32)
    words = {word: number for number, word in enumerate(["<padding>", "<unknown>", *"abcde"])}
    return LabelledText(train, held, held, WordVocabulary(words), ("no", "yes"), "made up")


def test_texts_are_padded_on_the_left_and_cut_on_the_right():
    batches = LabelledBatches(small_text(), batch_size=5, length=3, seed=1)
    words, labels = batches.batch(0)
    assert words.dtype == labels.dtype == np.int32
    rows = {tuple(row) for row in words.tolist()}
    assert rows == {(0, 0, 2), (0, 2, 3), (2, 3, 4)}
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 1]


def test_a_batch_depends_on_its_number_and_each_epoch_has_each_text_once():
    batches = LabelledBatches(small_text(), batch_size=2, length=5, seed=1)
    assert (batches.steps_per_epoch, batches.num_examples, batches.source) == (2, 5, "made up")
    seen = [tuple(row) for step in (0, 1) for row in batches.batch(step)[0].tolist()]
    assert len(set(seen)) == 4
    later = iter(batches.train(first_step=3))
    for step in (3, 4):
        for found, expected in zip(next(later), batches.batch(step), strict=True):
            np.testing.assert_array_equal(np.asarray(found), expected)
    other = LabelledBatches(small_text(), batch_size=2, length=5, seed=2)
    assert any((other.batch(step)[0] != batches.batch(step)[0]).any() for step in range(6))
    parts = list(batches.test())
    assert [len(np.asarray(labels)) for _, labels in parts] == [2, 1]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"batch_size": 6}, "`batch_size` must be at most the 5 training texts"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"length": 0}, "`length` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"text": []}, "`text` must be of type"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelledBatches(**{"text": small_text(), "batch_size": 2, "length": 3, **arguments})
