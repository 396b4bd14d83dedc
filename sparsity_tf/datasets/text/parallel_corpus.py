"""Parallel corpora, sentence by sentence, from one TSV file, two text files, or a data set of tfds.

Two ideas live here. The first: a split is a `Pairs`. It can be read any number of times, knows the file and the line of
each pair, and has a fingerprint, so that results computed from it can be cached. The second: every fault of a file is
an error that names the file and the line.
"""

import dataclasses
import itertools
import os

from sparsity_tf.bounded_files import PACKINGS, DamagedFileError, open_unpacked
from sparsity_tf.checks import check_bool, check_integer, check_path, check_string
from sparsity_tf.extras import import_optional
from sparsity_tf.type_names import PathLike

FORMS = ("tsv", "text")
_LONGEST_LINE = 1 << 20  # bytes
# File names of each split, in the order in which they are tried.
_STEMS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


class Pairs:
    """The sentence pairs of one split. Each iteration gives all pairs `(source, target)`, two strings, from the first.

    Args:
        name: The name of the pairs in messages: the file, or the split of the data set.
        fingerprint: A string that changes whenever the content changes.
        read: Function without arguments that returns an iterator of pairs.
        place: Function from the number of a pair, from 0, to "FILE:LINE".
    """

    def __init__(self, name, fingerprint, read, place):
        self.name, self.fingerprint, self.place = name, fingerprint, place
        self._read = read

    def __iter__(self):
        return self._read()

    def part(self, begin, end):
        """The pairs with numbers from `begin` up to, but not including, `end`."""
        return Pairs(
            self.name,
            f"{self.fingerprint}[{begin}:{end}]",
            lambda: itertools.islice(self._read(), begin, end),
            lambda number: self.place(begin + number),
        )

    def reversed(self):
        """The same pairs with source and target exchanged."""
        read = self._read
        return Pairs(self.name, f"{self.fingerprint}, reversed", lambda: ((b, a) for a, b in read()), self.place)


@dataclasses.dataclass(frozen=True)
class ParallelCorpus:
    """A parallel corpus: three splits, each a `Pairs`.

    Attributes:
        name: Name of the corpus.
        source: A sentence that says where the corpus came from.
        train, validation, test: The splits.

    Example:

    ```python
    with open("pairs.tsv", "w") as file:
        file.writelines(f"sentence {k}\\tSatz {k}\\n" for k in range(100))
    corpus = parallel_corpus("tsv", "pairs.tsv", held_out=10)
    print(next(iter(corpus.train)))
    ```
    """

    name: str
    source: str
    train: Pairs
    validation: Pairs
    test: Pairs


def _lines(path):
    """The lines of a UTF-8 file, compressed or not, without their line ends."""
    number = 0
    with open_unpacked(path, os.path.splitext(path)[1]) as file:
        while True:
            try:
                line = file.readline(_LONGEST_LINE + 1)
            except DamagedFileError as error:
                raise ValueError(f"{path}: damaged after line {number} ({error.reason}).") from error
            if not line:
                break
            number += 1
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"{path}:{number}: longer than {_LONGEST_LINE:,} bytes, which no sentence is.")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line)."
                ) from error
            yield text.rstrip("\r\n")
    if not number:
        raise ValueError(f"{path} is empty.")


def _fingerprint(*paths):
    found = [os.stat(path) for path in paths]
    return repr([(os.path.realpath(p), f.st_size, f.st_mtime_ns) for p, f in zip(paths, found, strict=True)])


def tsv_pairs(path):
    """The pairs of one file that has a line `source<TAB>target` for each pair.

    Args:
        path: Path of the file, in UTF-8. Files `.gz`, `.bz2` and `.xz` are unpacked while they are read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Raised while the file is read: it is empty or damaged, or a line isn't UTF-8, has no tab or has
            several. The message names file and line.
    """
    path = os.fspath(path)

    def read():
        for number, line in enumerate(_lines(path), 1):
            pair = tuple(line.split("\t"))
            if len(pair) != 2:
                raise ValueError(
                    f"{path}:{number}: a line must be source, tab, target. Received: {len(pair) - 1} tabs in "
                    f"{line[:200]!r}{'...' if len(line) > 200 else ''}"
                )
            yield pair

    return Pairs(path, _fingerprint(path), read, lambda number: f"{path}:{number + 1}")


def text_pairs(source_path, target_path):
    """The pairs of two files: line n of the second file is the translation of line n of the first.

    Args:
        source_path, target_path: Paths, as for `tsv_pairs`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Raised while the files are read: their numbers of lines differ, or as for `tsv_pairs`.
    """
    paths = os.fspath(source_path), os.fspath(target_path)

    def read():
        missing = object()
        for number, pair in enumerate(itertools.zip_longest(*map(_lines, paths), fillvalue=missing), 1):
            if missing in pair:
                short = pair.index(missing)
                counts = [number - 1, number - 1]
                counts[1 - short] = sum(1 for _ in _lines(paths[1 - short]))
                raise ValueError(
                    f"{paths[short]} ends before line {number}: both files must have the same number of lines. "
                    f"Received: {counts[0]} lines in {paths[0]}, {counts[1]} in {paths[1]}"
                )
            yield pair

    return Pairs(" and ".join(paths), _fingerprint(*paths), read, lambda number: f"{paths[0]}:{number + 1}")


def tfds_pairs(builder, split, source_language, target_language):
    """The pairs of a split of a data set of tensorflow_datasets, such as `wmt14_translate/de-en`.

    Args:
        builder: `tfds.core.DatasetBuilder`, prepared.
        split: `"train"`, `"validation"` or `"test"`.
        source_language, target_language: Keys of its features, such as `"en"` and `"de"`.

    Raises:
        ValueError: The data set lacks the split or a language.
    """
    tfds = import_optional("tensorflow_datasets")
    name = f"{builder.info.full_name} {split}"
    for argument, language in (("source_language", source_language), ("target_language", target_language)):
        if language not in builder.info.features:
            raise ValueError(
                f"`{argument}` must be one of {', '.join(builder.info.features)}, the features of "
                f"{builder.info.full_name}. Received: {argument}={language}"
            )
    if split not in builder.info.splits:
        raise ValueError(f"{builder.info.full_name} has no split {split}; it has {', '.join(builder.info.splits)}.")

    def read():
        # The shards are read one after the other: interleaved shards would come in another order on another machine.
        config = tfds.ReadConfig(interleave_cycle_length=1)
        for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config)):
            yield example[source_language].decode("utf-8"), example[target_language].decode("utf-8")

    count = builder.info.splits[split].num_examples
    fingerprint = f"{name} {count} {source_language} {target_language} {builder.data_dir}"
    return Pairs(name, fingerprint, read, lambda number: f"{name}, example {number + 1}")


def parallel_corpus(
    dataset: str = "tsv",
    data_dir: PathLike | None = None,
    source_language: str = "en",
    target_language: str = "de",
    reverse: bool = False,
    held_out: int = 1000,
) -> ParallelCorpus:
    """Opens a parallel corpus.

    Args:
        dataset: The form of the corpus.
            - `"tsv"`: `data_dir` is a folder with `train.tsv`, `validation.tsv` (or `valid`, `dev`) and `test.tsv`,
              compressed (`.gz`, `.bz2`, `.xz`) or not, with lines `source<TAB>target`. Or `data_dir` is one such file,
              whose last `2 * held_out` pairs become the validation and the test split.
            - `"text"`: the same, but the folder has pairs of files such as `train.en` and `train.de`. Or `data_dir` is
              two paths separated by a comma.
            - anything else: the name of a data set of tfds with a configuration, such as `wmt14_translate/de-en`.
              `data_dir` is the folder in which tfds keeps the data set (default: tfds's own folder). The data set is
              downloaded if it isn't there.
        data_dir: See `dataset`.
        source_language, target_language: Ends of the files' names (`"text"`) or keys of the features (tfds).
        reverse: Exchanges the two columns or files.
        held_out: Number of pairs for validation, and for test, that are cut off the end of a single corpus.

    Returns:
        `ParallelCorpus`.

    Raises:
        FileNotFoundError: A file is missing. The message lists the accepted names.
        ValueError: An argument is not as described, or a file has a fault that `tsv_pairs` and `text_pairs` describe.

    Example:

    ```python
    with open("pairs.tsv", "w") as file:
        file.writelines(f"sentence {k}\\tSatz {k}\\n" for k in range(100))
    corpus = parallel_corpus("tsv", "pairs.tsv", held_out=10)
    print(len(list(corpus.train)), len(list(corpus.test)))
    ```
    """
    for argument, text in (
        ("dataset", dataset),
        ("source_language", source_language),
        ("target_language", target_language),
    ):
        check_string(argument, text)
    check_bool("reverse", reverse)
    check_integer("held_out", held_out, 1)
    if data_dir is not None:
        check_path("data_dir", data_dir)
    if dataset in FORMS:
        if data_dir is None:
            raise ValueError(f"`data_dir` must be given with dataset={dataset}: a folder, or the corpus itself.")
        data_dir = os.fspath(data_dir)
        one = "," in data_dir if dataset == "text" else os.path.isfile(data_dir)
        splits = (
            _cut(dataset, data_dir, held_out)
            if one
            else _of_folder(dataset, data_dir, source_language, target_language)
        )
        source = f"{dataset} files {data_dir if one else 'in ' + data_dir}"
    else:
        splits, source = _of_tfds(dataset, data_dir, source_language, target_language)
    if reverse:
        splits = {name: pairs.reversed() for name, pairs in splits.items()}
    return ParallelCorpus(dataset, f"{source}{', reversed' if reverse else ''}.", **splits)


def _of_folder(form, folder, *languages):
    ends = (".tsv",) if form == "tsv" else tuple(f".{language}" for language in languages)
    open_pairs = tsv_pairs if form == "tsv" else text_pairs
    return {
        split: open_pairs(*(_find(folder, [f"{stem}{end}" for stem in stems]) for end in ends))
        for split, stems in _STEMS.items()
    }


def _find(folder, names):
    candidates = [f"{name}{end}" for name in names for end in ("", *PACKINGS)]
    for name in candidates:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise FileNotFoundError(f"{folder} must have one of the files {', '.join(names)} (or .gz, .bz2, .xz of them).")


def _cut(form, paths, held_out):
    if form == "text" and paths.count(",") != 1:
        raise ValueError(f"`data_dir` must be a folder or two paths separated by a comma. Received: data_dir={paths}")
    pairs = tsv_pairs(paths) if form == "tsv" else text_pairs(*paths.split(","))
    count = sum(1 for _ in pairs)
    begin = count - 2 * held_out
    if begin < 1:
        raise ValueError(
            f"{pairs.name} has {count:,} pairs, too few to hold out twice {held_out} of them. "
            f"Received: held_out={held_out}"
        )
    parts = (0, begin), (begin, count - held_out), (count - held_out, count)
    return {split: pairs.part(*part) for split, part in zip(_STEMS, parts, strict=True)}


def _of_tfds(name, data_dir, *languages):
    import_optional("tensorflow")  # tfds reads its files with it
    tfds = import_optional("tensorflow_datasets")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        message = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`dataset` must be {', '.join(FORMS)} or a translation data set of tfds such as wmt14_translate/de-en "
            f"({message}). Received: dataset={name}"
        ) from error
    builder.download_and_prepare()
    splits = {split: tfds_pairs(builder, split, *languages) for split in _STEMS}
    return splits, f"{builder.info.full_name} of tensorflow_datasets in {builder.data_dir}"
