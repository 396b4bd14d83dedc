"""Parallel corpora and their batches: every pair where it belongs, any step again, and errors that name the line."""

import gzip
import lzma

import numpy as np
import pytest

from sparsity_tf.datasets.text import bucketing, encoded_text, parallel_corpus, subwords, translation_batches

pytestmark = pytest.mark.tensorflow

WORDS = "the a small large file model layer weight is was gets became sparse dense fast slow and or not".split()


def generated_pairs(count, seed=0, longest=12):
    """Sentences of random words and their "translation": the words in reverse order, in capitals."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        words = random.choice(WORDS, random.integers(1, longest + 1)).tolist()
        pairs.append((" ".join(words), " ".join(word.upper() for word in reversed(words))))
    return pairs


def write_tsv(path, pairs):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{source}\t{target}\n" for source, target in pairs)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_tsv(folder / "train.tsv.xz", generated_pairs(400))
    write_tsv(folder / "valid.tsv.gz", generated_pairs(30, seed=1))
    write_tsv(folder / "test.tsv", generated_pairs(20, seed=2))
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return parallel_corpus.parallel_corpus("tsv", folder)


@pytest.fixture(scope="module")
def vocabulary(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "words.model"
    return subwords.train((text for pair in corpus.train for text in pair), path, 400)


def make(corpus, vocabulary, **options):
    # One of the 400 training pairs is longer than that.
    options = {"batch_tokens": 128, "max_length": 32, "bucket_growth": 1.4, **options}
    return translation_batches.translation_batches(corpus, vocabulary, **options)


def drawn(dataset, count=None):
    dataset = dataset if count is None else dataset.take(count)
    return list(dataset.as_numpy_iterator())


def sentences(vocabulary, rows):
    return [vocabulary.decode(row) for row in rows]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (features, targets, weights), (other, other_targets, other_weights) in zip(batches, others, strict=True):
        assert list(features) == list(other)
        for name in features:
            np.testing.assert_array_equal(features[name], other[name])
        np.testing.assert_array_equal(targets, other_targets)
        np.testing.assert_array_equal(weights, other_weights)


# Corpora


def test_a_folder_of_tsv_files_is_read_compressed_or_not(corpus):
    assert list(corpus.train) == generated_pairs(400) == list(corpus.train)
    assert list(corpus.validation) == generated_pairs(30, seed=1)
    assert list(corpus.test) == generated_pairs(20, seed=2)
    assert corpus.train.place(4).endswith("train.tsv.xz:5")


def test_two_text_files_a_split_are_the_same_corpus(corpus, tmp_path):
    for stem, pairs in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
        for side, language in enumerate(("en", "de")):
            lines = "".join(f"{pair[side]}\n" for pair in pairs)
            (tmp_path / f"{stem}.{language}").write_text(lines, encoding="utf-8")
    other = parallel_corpus.parallel_corpus("text", tmp_path)
    for split in ("train", "validation", "test"):
        assert list(getattr(other, split)) == list(getattr(corpus, split))


def test_one_file_is_cut_into_three_splits(tmp_path):
    pairs = generated_pairs(50)
    path = write_tsv(tmp_path / "all.tsv", pairs)
    corpus = parallel_corpus.parallel_corpus("tsv", path, held_out=10)
    assert list(corpus.train) == pairs[:30]
    assert list(corpus.validation) == pairs[30:40] and list(corpus.test) == pairs[40:]
    assert corpus.test.place(0) == f"{path}:41"
    with pytest.raises(ValueError, match="has 50 pairs, too few to hold out twice 25"):
        parallel_corpus.parallel_corpus("tsv", path, held_out=25)


def test_reversed_corpora_translate_the_other_way(folder, corpus):
    other = parallel_corpus.parallel_corpus("tsv", folder, reverse=True)
    assert list(other.test) == [(target, source) for source, target in corpus.test]
    assert other.test.fingerprint != corpus.test.fingerprint


def test_a_data_set_of_tfds_is_read_in_a_fixed_order(tmp_path):
    import tensorflow_datasets as tfds

    class TinyTranslate(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.Translation(languages=("de", "en"))
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {name: self._generate_examples(name) for name in ("train", "validation", "test")}

        def _generate_examples(self, split):
            for number, (source, target) in enumerate(generated_pairs(25, seed=len(split))):
                yield number, {"en": source, "de": target}

    corpus = parallel_corpus.parallel_corpus("tiny_translate", tmp_path)
    assert sorted(corpus.train) == sorted(generated_pairs(25, seed=5))
    assert list(corpus.validation) == list(corpus.validation)
    assert corpus.train.place(0) == "tiny_translate/1.0.0 train, example 1"
    with pytest.raises(ValueError, match="`source_language` must be one of .*en.*Received: source_language=fr"):
        parallel_corpus.parallel_corpus("tiny_translate", tmp_path, source_language="fr")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.tsv is empty"),
        (b"one\teins\ntwo zwei\n", r"bad.tsv:2: a line must be source, tab, target. Received: 0 tabs in 'two zwei'"),
        (b"one\teins\tun\n", r"bad.tsv:1: .*Received: 2 tabs"),
        (b"one\teins\ntwo\tzwei\nthree\t\xff\n", r"bad.tsv:3: not UTF-8 \(.* at byte 6 of the line\)"),
    ],
)
def test_a_bad_tsv_file_is_an_error_that_names_the_line(tmp_path, content, message):
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(parallel_corpus.tsv_pairs(path))


def test_a_cut_off_archive_is_an_error_that_names_it(tmp_path):
    path = write_tsv(tmp_path / "cut.tsv.xz", generated_pairs(2000))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut.tsv.xz: damaged after line \d+"):
        list(parallel_corpus.tsv_pairs(path))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_an_archive_with_a_broken_byte_is_an_error_that_names_it(tmp_path, ending):
    path = write_tsv(tmp_path / f"broken.tsv{ending}", generated_pairs(2000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken.tsv{ending}(: | is )damaged"):
        list(parallel_corpus.tsv_pairs(path))


def test_a_line_without_end_is_an_error_that_names_it(tmp_path):
    (tmp_path / "long.tsv").write_bytes(b"a\tb\n" + b"x" * (3 << 20))
    with pytest.raises(ValueError, match=r"long.tsv:2: longer than 1,048,576 bytes") as error:
        list(parallel_corpus.tsv_pairs(tmp_path / "long.tsv"))
    assert len(str(error.value)) < 500
    (tmp_path / "wide.tsv").write_bytes(b"x" * (1 << 19) + b"\n")
    with pytest.raises(ValueError, match=r"wide.tsv:1: a line must be source, tab, target") as error:
        list(parallel_corpus.tsv_pairs(tmp_path / "wide.tsv"))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("short", [0, 1])
def test_unequal_numbers_of_lines_are_an_error_that_names_both(tmp_path, short):
    paths = [tmp_path / "a.en", tmp_path / "a.de"]
    for side, path in enumerate(paths):
        path.write_text("one\n" * (3 if side == short else 5))
    counts = [3 if side == short else 5 for side in (0, 1)]
    message = (
        f"{paths[short]} ends before line 4: .*Received: {counts[0]} lines in {paths[0]}, {counts[1]} in {paths[1]}"
    )
    with pytest.raises(ValueError, match=message):
        list(parallel_corpus.text_pairs(*paths))


def test_missing_files_and_unknown_corpora_are_errors_that_say_what_would_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must have one of the files train.tsv \(or .gz"):
        parallel_corpus.parallel_corpus("tsv", tmp_path)
    with pytest.raises(ValueError, match="`data_dir` must be given with dataset=text"):
        parallel_corpus.parallel_corpus("text")
    with pytest.raises(ValueError, match="`dataset` must be tsv, text or a translation data set.*no_such_corpus"):
        parallel_corpus.parallel_corpus("no_such_corpus", tmp_path)


# Encoded pairs


def test_encoded_pairs_end_with_1_and_leave_blank_ones_out(vocabulary, tmp_path):
    path = write_tsv(tmp_path / "some.tsv", [("the file", "THE"), ("", "EMPTY"), ("dense", " "), ("a", "A WEIGHT")])
    encoded = encoded_text.encode_pairs(parallel_corpus.tsv_pairs(path), vocabulary)
    assert len(encoded) == 2 and encoded.blank == 2 and encoded.numbers.tolist() == [0, 3]
    rows = encoded.rows(1, np.array([1, 0]), 12)
    assert sentences(vocabulary, rows) == ["A WEIGHT", "THE"]
    assert (rows == 1).sum(axis=1).tolist() == [1, 1]
    assert encoded.lengths.tolist() == [
        [len(vocabulary.encode(t)) + 1 for t in p] for p in (("the file", "THE"), ("a", "A WEIGHT"))
    ]
    assert encoded.take(np.array([1])).rows(0, np.array([0]), 4).tolist() == encoded.rows(0, np.array([1]), 4).tolist()


def test_the_cache_is_used_and_knows_when_the_file_changed(vocabulary, tmp_path, monkeypatch):
    path, cache = write_tsv(tmp_path / "some.tsv", generated_pairs(5)), tmp_path / "cache"
    first = encoded_text.encode_pairs(parallel_corpus.tsv_pairs(path), vocabulary, cache)
    with monkeypatch.context() as patch:
        patch.setattr(encoded_text, "_encode", None)
        again = encoded_text.encode_pairs(parallel_corpus.tsv_pairs(path), vocabulary, cache)
    for side in (0, 1):
        np.testing.assert_array_equal(first.ids[side], again.ids[side])
    np.testing.assert_array_equal(first.lengths, again.lengths)
    write_tsv(path, generated_pairs(6))
    assert len(encoded_text.encode_pairs(parallel_corpus.tsv_pairs(path), vocabulary, cache)) == 6
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: b"", lambda content: b"text"])
def test_a_damaged_cache_is_made_again_and_said(vocabulary, tmp_path, damage):
    pairs, cache = parallel_corpus.tsv_pairs(write_tsv(tmp_path / "some.tsv", generated_pairs(5))), tmp_path / "cache"
    first = encoded_text.encode_pairs(pairs, vocabulary, cache)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path} is not a readable .npz file .* The text is encoded again"):
        again = encoded_text.encode_pairs(pairs, vocabulary, cache)
    np.testing.assert_array_equal(again.ids[0], first.ids[0])
    assert len(encoded_text.encode_pairs(pairs, vocabulary, cache)) == 5


def test_what_cannot_be_encoded_is_an_error_that_names_the_line(tmp_path):
    texts = [text for pair in generated_pairs(50) for text in pair]
    plain = subwords.train(texts, tmp_path / "plain.model", 60, byte_fallback=False)
    path = write_tsv(tmp_path / "some.tsv", [("the file", "THE"), ("the ☃", "THE")])
    with pytest.raises(ValueError, match="some.tsv:2: .*no subwords for '☃'"):
        encoded_text.encode_pairs(parallel_corpus.tsv_pairs(path), plain)


# Buckets and packing


def test_boundaries_grow_and_end_with_the_longest():
    boundaries = bucketing.bucket_boundaries(256)
    assert boundaries[:4] == [8, 9, 10, 11] and boundaries[-1] == 256  # as tensor2tensor's
    assert all(a < b for a, b in zip(boundaries, boundaries[1:], strict=False))
    assert bucketing.bucket_boundaries(5) == [5]


@pytest.mark.parametrize("multiple", [1, 4])
def test_every_epoch_has_the_same_number_of_batches_and_no_sentence_twice(multiple):
    lengths = np.random.default_rng(0).integers(1, 33, (500, 2))
    buckets = bucketing.Buckets.of(lengths, bucketing.bucket_boundaries(32, 1.3), 160, multiple)
    for epoch in range(4):
        plan = buckets.plan(7, epoch)
        assert len(plan) == buckets.num_batches
        seen = np.concatenate([chosen for chosen, _ in plan])
        assert len(seen) == len(set(seen.tolist())) and len(seen) > 480
        for chosen, bucket in plan:
            assert lengths[chosen].max() <= buckets.boundaries[bucket]
            assert len(chosen) == buckets.sizes[bucket] and len(chosen) % multiple == 0
            assert len(chosen) * buckets.boundaries[bucket] <= 160
    orders = [[chosen.tolist() for chosen, _ in buckets.plan(7, epoch)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_bucket_with_few_sentences_gives_them_to_the_next():
    lengths = np.array([[3, 3]] * 2 + [[12, 9]] * 6)
    buckets = bucketing.Buckets.of(lengths, [4, 12], 48)
    assert buckets.sizes == (12, 4) and buckets.num_batches == 2
    [(first, bucket), _] = sorted(buckets.plan(0, 0), key=lambda batch: -np.isin([0, 1], batch[0]).sum())
    assert bucket == 1 and {0, 1} <= set(first.tolist())


def test_packing_loses_no_sentence_and_fills_rows_well():
    lengths = np.random.default_rng(1).integers(2, 20, (800, 2))
    rows = bucketing.pack(lengths, 64, seed=5)
    assert sorted(np.concatenate(rows).tolist()) == list(range(800))
    sums = np.array([lengths[row].sum(axis=0) for row in rows])
    assert sums.max() <= 64 and sums.sum() / (len(rows) * 128) > 0.9
    assert [row.tolist() for row in rows] == [row.tolist() for row in bucketing.pack(lengths, 64, seed=5)]
    with pytest.raises(ValueError, match="`row_length` must be at least 19"):
        bucketing.pack(lengths, 16)


# Batches


def test_batches_hold_pairs_that_belong_together_and_weigh_padding_out(corpus, vocabulary):
    batches = make(corpus, vocabulary)
    pairs = set(corpus.train)
    for features, targets, weights in drawn(batches.train(), batches.steps_per_epoch):
        assert {array.dtype for array in features.values()} == {np.dtype(np.int32)}
        np.testing.assert_array_equal(features["targets"], targets)
        np.testing.assert_array_equal(weights, targets != 0)
        assert targets.size <= 128 and features["inputs"].shape == targets.shape
        assert set(zip(*(sentences(vocabulary, features[k]) for k in ("inputs", "targets")), strict=True)) <= pairs


def test_an_epoch_shows_nearly_every_pair_once_and_the_next_in_another_order(corpus, vocabulary):
    batches = make(corpus, vocabulary)
    steps = batches.steps_per_epoch
    shown = drawn(batches.train(), 2 * steps)
    count = sum(len(targets) for _, targets, _ in shown[:steps])
    assert 380 < count <= batches.num_examples == 399
    first, second = ([f["inputs"].tolist() for f, _, _ in part] for part in (shown[:steps], shown[steps:]))
    assert first != second


@pytest.mark.parametrize("options", [{}, {"packed": True, "batch_tokens": 96}, {"pad_to": "longest"}])
def test_training_batches_begin_at_any_step(corpus, vocabulary, options):
    steps = make(corpus, vocabulary, **options).steps_per_epoch
    whole = drawn(make(corpus, vocabulary, **options).train(), steps + 5)
    for first in (1, steps - 1, steps + 2):
        assert_same(drawn(make(corpus, vocabulary, **options).train(first), 3), whole[first : first + 3])
    other = drawn(make(corpus, vocabulary, seed=1, **options).train(), 5)
    assert [f["inputs"].tolist() for f, _, _ in other] != [f["inputs"].tolist() for f, _, _ in whole[:5]]


def test_padding_to_the_longest_computes_less_and_shows_the_same(corpus, vocabulary):
    wide, narrow = (drawn(make(corpus, vocabulary, pad_to=pad).train(), 20) for pad in ("bucket", "longest"))
    assert sum(t.size for _, t, _ in narrow) < sum(t.size for _, t, _ in wide)
    for (features, targets, _), (other, other_targets, _) in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(features["inputs"][:, : other["inputs"].shape[1]], other["inputs"])
        np.testing.assert_array_equal(targets[:, : other_targets.shape[1]], other_targets)
        assert (other_targets[:, -1] != 0).any()


def test_packed_rows_tell_their_sentences_apart(corpus, vocabulary):
    batches = make(corpus, vocabulary, packed=True, batch_tokens=96)
    pairs, seen = set(corpus.train), 0
    for features, targets, weights in drawn(batches.train(), batches.steps_per_epoch):
        assert targets.shape == (3, 32)
        np.testing.assert_array_equal(weights, targets != 0)
        for side in ("inputs", "targets"):
            np.testing.assert_array_equal(features[side] != 0, features[f"{side}_segments"] > 0)
        for row in range(3):
            segments = [features[f"{side}_segments"][row] for side in ("inputs", "targets")]
            assert segments[0].max() == segments[1].max() > 0
            for number in range(1, segments[0].max() + 1):
                pair = []
                for side, segment in zip(("inputs", "targets"), segments, strict=True):
                    ids, places = features[side][row][segment == number], np.flatnonzero(segment == number)
                    positions = features[f"{side}_positions"][row][segment == number]
                    assert positions.tolist() == list(range(len(ids))) and ids[-1] == 1
                    assert np.ptp(places) == len(places) - 1
                    pair.append(vocabulary.decode(ids))
                assert tuple(pair) in pairs
                seen += 1
    assert seen > 350
    features, _, _ = drawn(batches.validation(), 1)[0]
    assert set(features) == set(translation_batches._KEYS + translation_batches._PACKED_KEYS)
    assert features["inputs_segments"].max() == 1


def test_evaluation_has_each_pair_once_and_filled_up_rows_count_nothing(corpus, vocabulary):
    batches = make(corpus, vocabulary, eval_batch_tokens=100)
    found = []
    for features, targets, weights in drawn(batches.validation()):
        real = weights.any(axis=1)
        assert (features["inputs"] != 0).any(axis=1).all() and (targets != 0).any(axis=1).all()
        np.testing.assert_array_equal(weights[real], targets[real] != 0)
        rows = (sentences(vocabulary, array[real]) for array in (features["inputs"], targets))
        found += zip(*rows, strict=True)
    assert sorted(found) == sorted(corpus.validation) == sorted(batches.texts("validation"))
    assert batches.texts("test") == list(corpus.test) and batches.num_test == 20


def test_workers_share_each_batch(corpus, vocabulary):
    import tensorflow as tf

    whole = make(corpus, vocabulary, replicas=4)
    for read in (lambda b, c: b.train(2, c), lambda b, c: b.validation(c)):
        contexts = [tf.distribute.InputContext(2, worker, 4) for worker in (0, 1)]
        parts = [drawn(read(whole, context), 8) for context in contexts]
        together = drawn(read(whole, None), 4)
        for step, (features, targets, weights) in enumerate(together[: len(parts[0]) // 2]):
            pieces = [parts[0][2 * step], parts[0][2 * step + 1], parts[1][2 * step], parts[1][2 * step + 1]]
            np.testing.assert_array_equal(np.concatenate([f["inputs"] for f, _, _ in pieces]), features["inputs"])
            np.testing.assert_array_equal(np.concatenate([t for _, t, _ in pieces]), targets)
            np.testing.assert_array_equal(np.concatenate([w for _, _, w in pieces]), weights)
    with pytest.raises(ValueError, match="`replicas` must be the 4 of the strategy. Received: replicas=2"):
        make(corpus, vocabulary, replicas=2).train(0, contexts[0])


def test_long_training_pairs_are_left_out_and_counted_or_an_error(corpus, vocabulary, folder):
    lengths = [max(len(vocabulary.encode(text)) + 1 for text in pair) for pair in corpus.train]
    over = [number for number, length in enumerate(lengths) if length > 12]
    batches = make(corpus, vocabulary, max_length=12)
    assert batches.num_examples == 400 - len(over)
    assert f"Left out of train, 400 pairs: {len(over)} longer than 12 subwords." in batches.source
    assert all(targets.shape[1] <= 12 for _, targets, _ in drawn(batches.train(), 30))
    with pytest.raises(ValueError, match=rf"train.tsv.xz:{over[0] + 1}: this sentence has {lengths[over[0]]} subwords"):
        make(corpus, vocabulary, max_length=12, too_long="error")
    with pytest.raises(ValueError, match="`max_length` must be larger: all 400 pairs of"):
        make(corpus, vocabulary, max_length=1)


def test_long_evaluation_pairs_are_an_error_unless_they_may_be_dropped(corpus, vocabulary):
    with pytest.raises(ValueError, match=r"valid.tsv.gz:\d+: this sentence has \d+ subwords.*`eval_max_length` is 12"):
        make(corpus, vocabulary, eval_max_length=12)
    batches = make(corpus, vocabulary, eval_max_length=12, eval_too_long="drop")
    assert 0 < batches.num_validation < 30 and len(batches.texts("validation")) == batches.num_validation
    assert "Left out of validation, 30 pairs" in batches.source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 31}, "`batch_tokens` must be at least 32, to hold 1 of the longest sentences"),
        ({"replicas": 5}, "`batch_tokens` must be at least 160"),
        ({"batch_tokens": 100_000}, "`batch_tokens` must be smaller: the 399 training pairs do not fill one batch"),
        ({"max_length": 0}, "`max_length` must be an integer of at least 1"),
        ({"pad_to": "batch"}, "`pad_to` must be one of .*'bucket', 'longest'"),
        ({"too_long": "cut"}, "`too_long` must be one of .*'drop', 'error'"),
        ({"bucket_growth": 1.0}, "`bucket_growth` must be a finite number above 1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
    ],
)
def test_arguments_that_make_no_batches_are_errors(corpus, vocabulary, options, message):
    with pytest.raises(ValueError, match=message):
        make(corpus, vocabulary, **options)


def test_steps_before_the_first_are_errors(corpus, vocabulary):
    with pytest.raises(ValueError, match="`first_step` must be an integer of at least 0"):
        make(corpus, vocabulary).train(-1)
