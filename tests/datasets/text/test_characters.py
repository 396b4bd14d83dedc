"""Text as characters: splits, vocabulary, windows that any run sees alike, and clear errors."""

import gzip
import lzma

import numpy as np
import pytest

from sparsity_tf.datasets import CharacterBatches, character_corpus
from sparsity_tf.datasets.text.characters import UNKNOWN

TEXT = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return character_corpus(str(tmp_path / "text.txt"), held_out=0.1)


def test_the_text_of_the_package_is_real_and_whole():
    corpus = character_corpus()
    text = corpus.decode(np.concatenate([corpus.train, corpus.validation, corpus.test]))
    assert text.startswith("THE SONNETS\nby William Shakespeare\n")
    assert "Shall I compare thee to a summer's day?" in text
    assert text.endswith("Love's fire heats water, water cools not love.\n")
    assert len(text) == 95_650
    assert len(corpus.validation) == len(corpus.test) == 4782
    assert corpus.unknown == {"train": 0, "validation": 0, "test": 0}
    assert "Shakespeare" in corpus.source


def test_a_file_is_cut_into_three_splits_without_loss(corpus):
    parts = [corpus.decode(getattr(corpus, split)) for split in ("train", "validation", "test")]
    assert "".join(parts) == TEXT
    assert [len(part) for part in parts] == [1408, 176, 176]


def test_vocabulary_is_that_of_the_training_text_the_frequent_first(tmp_path):
    (tmp_path / "wiki.train.raw").write_text("aaabbc" * 100)
    (tmp_path / "wiki.valid.raw").write_text("abd")
    (tmp_path / "wiki.test.raw").write_text("cd" + UNKNOWN)
    corpus = character_corpus(str(tmp_path))
    assert corpus.vocabulary == (UNKNOWN, "a", "b", "c")
    assert corpus.validation.tolist() == [1, 2, 0]
    assert corpus.test.tolist() == [3, 0, 0]
    assert corpus.unknown == {"train": 0, "validation": 1, "test": 2}
    limited = character_corpus(str(tmp_path), vocabulary_size=3)
    assert limited.vocabulary == (UNKNOWN, "a", "b")
    assert limited.unknown["train"] == 100


def test_compressed_files_and_characters_beyond_the_basic_plane(tmp_path):
    text = "å戦𝄞" * 50
    with lzma.open(tmp_path / "train.txt.xz", "wb") as file:
        file.write(text.encode())
    with gzip.open(tmp_path / "valid.txt.gz", "wb") as file:
        file.write(text.encode())
    (tmp_path / "test.txt").write_text(text)
    corpus = character_corpus(str(tmp_path))
    assert corpus.decode(corpus.test) == text and len(corpus.train) == 150


def test_windows_are_contiguous_and_targets_are_the_next_characters(corpus):
    batches = CharacterBatches(corpus, batch_size=4, window=10, seed=3)
    text = corpus.decode(corpus.train)
    for step in range(batches.steps_per_epoch):
        x, y = batches.batch(step)
        assert x.shape == y.shape == (4, 10)
        for row in range(4):
            assert corpus.decode(x[row]) + corpus.decode(y[row, -1:]) in text
            np.testing.assert_array_equal(x[row, 1:], y[row, :-1])


def test_windows_of_an_epoch_do_not_overlap_and_move_from_epoch_to_epoch(corpus):
    batches = CharacterBatches(corpus, batch_size=4, window=10, seed=3)
    first, second = batches._starts(0), batches._starts(1)
    assert (np.diff(np.sort(first)) == 10).all()
    assert first.min() >= 0 and first.max() + 11 <= len(corpus.train)
    assert sorted(first) != first.tolist()
    assert {int(first.min()), int(second.min())} <= set(range(10))
    assert any(batches._starts(epoch).min() != first.min() for epoch in range(1, 5))


@pytest.mark.tensorflow
def test_training_is_the_same_from_any_step_on_and_for_any_object(corpus):
    batches = CharacterBatches(corpus, batch_size=8, window=10, seed=1)
    steps = batches.steps_per_epoch + 3
    whole = list(batches.train().take(steps).as_numpy_iterator())
    again = CharacterBatches(corpus, batch_size=8, window=10, seed=1)
    for step in (0, 5, batches.steps_per_epoch + 1):
        x, y = next(again.train(step).take(1).as_numpy_iterator())
        np.testing.assert_array_equal(x, whole[step][0])
        np.testing.assert_array_equal(y, whole[step][1])
    other = CharacterBatches(corpus, batch_size=8, window=10, seed=2)
    assert (other.batch(0)[0] != whole[0][0]).any()


@pytest.mark.tensorflow
@pytest.mark.parametrize("window,limit", [(10, None), (7, None), (500, None), (10, 33)])
def test_evaluation_predicts_every_character_but_the_first_once(corpus, window, limit):
    batches = CharacterBatches(corpus, 1, min(window, 50), eval_batch_size=3, eval_characters=limit)
    batches.window = window
    targets = [y[weights == 1] for _, y, weights in batches.test().as_numpy_iterator()]
    np.testing.assert_array_equal(np.concatenate(targets), corpus.test[1 : (limit or len(corpus.test)) + 1])


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "text.txt is empty"),
        (b"abc\xff", "text.txt is no UTF-8 text: byte 3 is 0xff"),
        (b"abc", "`data_dir` must hold more text: 3 characters"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        character_corpus(str(path))


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "text.txt.xz").write_bytes(lzma.compress(TEXT.encode())[:-20])
    with pytest.raises(ValueError, match=r"text.txt.xz is damaged"):
        character_corpus(str(tmp_path / "text.txt.xz"))
    with pytest.raises(FileNotFoundError, match="`data_dir` must be a text file or a folder. Received: .*nowhere"):
        character_corpus(str(tmp_path / "nowhere"))
    (tmp_path / "train.txt").write_text(TEXT)
    with pytest.raises(FileNotFoundError, match="one text file .* with valid or dev in its name for validation"):
        character_corpus(str(tmp_path))


def test_bad_arguments_are_named(corpus):
    with pytest.raises(ValueError, match="`vocabulary_size` must be an integer of at least 2"):
        character_corpus(vocabulary_size=1)
    with pytest.raises(ValueError, match="`held_out` must be a number between 0 and 0.5. Received: held_out=0.5"):
        character_corpus(held_out=0.5)
    with pytest.raises(ValueError, match="`window` must be an integer of at least 1. Received: window=0"):
        CharacterBatches(corpus, 4, 0)
    with pytest.raises(ValueError, match="at least 2051 characters for a batch of 40 windows of 50. Received: 1408"):
        CharacterBatches(corpus, 40, 50)
    with pytest.raises(ValueError, match="`first_step` must be an integer of at least 0"):
        CharacterBatches(corpus, 4, 10).train(-1)
