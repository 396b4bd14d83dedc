"""Vocabularies: every text comes back, ids 0 and 1 have their meaning, files of two kinds are told apart."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_tf.datasets.text import subwords

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Files get smaller; models don't get faster.",
    "Dateien werden kleiner, Netze werden nicht schneller.",
] * 30

# As tensor2tensor writes it: quoted, the reserved ones first, one subword a line; here pieces of "compression".
SUBWORD_LINES = ["<pad>_", "<EOS>_", "com", "press", "ion_", "the_", ", ", "_", ",", " ", *"abcdefghijklmnopqrstuvwxyz"]
SUBWORD_LINES += list("\\u;0123456789")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    return subwords.train(TEXTS, tmp_path_factory.mktemp("vocabulary") / "small.model", 380)


@pytest.fixture
def subword_file(tmp_path):
    path = tmp_path / "vocab.test.subwords"
    path.write_text("".join(f"'{line}'\n" for line in SUBWORD_LINES), encoding="utf-8")
    return path


def test_a_trained_vocabulary_has_the_size_asked_for_and_is_loaded_by_its_content(sentencepiece):
    again = subwords.load(sentencepiece.path)
    assert isinstance(again, subwords.SentencePieceVocabulary)
    assert again.size == sentencepiece.size == 380
    assert again.encode(TEXTS[1]) == sentencepiece.encode(TEXTS[1])
    assert os.listdir(os.path.dirname(sentencepiece.path)) == [os.path.basename(sentencepiece.path)]


def test_frequent_words_take_few_subwords_and_none_is_special(sentencepiece):
    ids = sentencepiece.encode("The quick brown fox")
    assert len(ids) < len("The quick brown fox") / 2
    assert min(ids) >= 2 and max(ids) < sentencepiece.size


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), max_size=40))
def test_sentencepiece_gives_every_text_back_but_for_runs_of_spaces(sentencepiece, text):
    expected = " ".join(part for part in text.split(" ") if part)
    assert sentencepiece.decode(sentencepiece.encode(text)) == expected


def test_training_is_a_function_of_its_arguments(tmp_path):
    files = [tmp_path / name for name in ("a.model", "b.model")]
    for path in files:
        subwords.train(iter(TEXTS), path, 360, max_texts=50, seed=3)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_unigram_vocabularies_work_too(tmp_path):
    vocabulary = subwords.train(TEXTS, tmp_path / "unigram.model", 310, kind="unigram")
    assert vocabulary.decode(vocabulary.encode(TEXTS[2])) == TEXTS[2]


def test_decoding_ends_at_the_end_of_sentence_and_skips_padding(sentencepiece):
    ids = sentencepiece.encode("lazy dog")
    assert sentencepiece.decode([*ids, 1, *ids]) == "lazy dog"
    assert sentencepiece.decode(np.array([0, *ids, 0, 0], np.int32)) == "lazy dog"
    assert sentencepiece.decode([]) == sentencepiece.decode([1]) == ""


@pytest.mark.parametrize("ids", [[5, 380], [-1]])
def test_ids_outside_the_vocabulary_are_an_error(sentencepiece, ids):
    with pytest.raises(ValueError, match=f"from 0 to 379.*Received: {ids[-1]}"):
        sentencepiece.decode(ids)


def test_ids_that_are_no_integers_and_texts_that_are_no_strings_are_errors(sentencepiece):
    with pytest.raises(ValueError, match="sequence of integers"):
        sentencepiece.decode([0.5])
    with pytest.raises(ValueError, match="must be a string"):
        sentencepiece.encode(b"bytes")


def test_without_byte_fallback_an_unknown_symbol_is_named(tmp_path):
    vocabulary = subwords.train(TEXTS, tmp_path / "plain.model", 60, byte_fallback=False)
    with pytest.raises(ValueError, match=r"plain.model has no subwords for .*'漢'.*byte_fallback"):
        vocabulary.encode("a 漢 sign")
    with pytest.raises(ValueError, match="'漢'"):
        vocabulary.encode_all(["fine", "漢"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": TEXTS, "size": 100}, "`size` must be an integer of at least 300"),
        ({"texts": TEXTS, "size": 100_000}, "No vocabulary of `size` 100000 can be trained on these 120 texts"),
        ({"texts": ["", " "], "size": 400}, "some text to train"),
        ({"texts": TEXTS, "size": 400, "kind": "words"}, "`kind` must be one of .*'bpe', 'unigram'"),
    ],
)
def test_what_no_vocabulary_can_be_trained_on_is_an_error_and_leaves_no_file(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        subwords.train(path=tmp_path / "new.model", **arguments)
    assert os.listdir(tmp_path) == []


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "usual"), vocab_size=60, minloglevel=2
    )
    with pytest.raises(ValueError, match="padding at id 0 and the end of sentence at id 1.*Received: -1 and 2"):
        subwords.load(tmp_path / "usual.model")


def test_words_are_cut_where_letters_meet_other_characters():
    # The example in tensor2tensor's own documentation of its tokenizer.
    words = subwords.split_words("Dude - that's so cool.")
    assert words == ["Dude", " - ", "that", "'", "s", "so", "cool", "."]
    assert subwords.join_words(words) == "Dude - that's so cool."


def test_escapes_are_those_of_tensor2tensor():
    token = "Foo! Bar.\nunder_score back\\slash"
    escaped = subwords.escape(token, set("abcdefghijklmnopqrstuvwxyz .\n") | set("FB\\u;0123456789"))
    assert escaped == "Foo\\33; Bar.\\10;under\\uscore back\\\\slash_"
    assert subwords.unescape(escaped.removesuffix("_")) == token
    assert subwords.unescape("\\99999999999;") == "〓"


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_splitting_and_joining_words_gives_the_text_back(text):
    assert subwords.join_words(subwords.split_words(text)) == text


def test_a_subword_file_is_read_and_its_longest_subwords_are_taken(subword_file):
    vocabulary = subwords.load(subword_file)
    assert isinstance(vocabulary, subwords.SubwordVocabulary)
    assert vocabulary.size == len(SUBWORD_LINES)
    place = SUBWORD_LINES.index
    # "compression" is one part, ", " another, with its end "_".
    expected = [place("com"), place("press"), place("ion_"), place(", "), place("_"), place("the_")]
    assert vocabulary.encode("compression, the") == expected
    assert vocabulary.decode([*expected, 1, 7]) == "compression, the"


def test_what_has_no_subword_is_escaped_and_comes_back(subword_file):
    vocabulary = subwords.load(subword_file)
    ids = vocabulary.encode("Ü_1")
    assert [SUBWORD_LINES[i] for i in ids] == [*"\\220;", "_", *"\\u", "_", "1", "_"]
    assert vocabulary.decode(ids) == "Ü_1"


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_a_subword_file_gives_every_text_back(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "all.subwords"
    if not path.exists():
        path.write_text("".join(f"'{line}'\n" for line in SUBWORD_LINES), encoding="utf-8")
    vocabulary = subwords.load(path)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_unquoted_and_old_files_are_read(tmp_path):
    path = tmp_path / "old.subwords"
    path.write_text("<pad>\n<EOS>\nab\nab_\na\nb\n_\n", encoding="utf-8")
    assert subwords.load(path).encode("abab") == [2, 3]


def test_a_subword_file_that_lacks_a_symbol_of_the_escapes_says_so(tmp_path):
    path = tmp_path / "short.subwords"
    path.write_text("'<pad>'\n'<EOS>'\n'a'\n'_'\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short.subwords has no subword for '\\\\' in 'b'"):
        subwords.load(path).encode("b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty and no vocabulary"),
        (b"\nnothing of the kind", "is no SentencePiece model"),
        (b"one\ntwo\nthree\n", "the first two lines of a subword text file are '<pad>' and '<EOS>'"),
        (b"\xff\xfe\x00", "neither a SentencePiece model nor UTF-8 text"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        subwords.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.model"):
        subwords.load(tmp_path / "missing.model")
