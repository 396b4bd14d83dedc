"""Functions of the commands that translate a text: flags, encoding, search and progress."""

import contextlib
import os
import sys
import time

from absl import flags

from sparsity_tf.tools import command


def define_flags(values):
    """Defines the flags of the search, and of what it takes."""
    own = {"flag_values": values}
    flags.DEFINE_string("vocabulary", None, "The subwords it was trained with: SentencePiece or tensor2tensor.", **own)
    flags.DEFINE_bool("greedy", False, "Take the most probable token each time; so does --beam_size=1.", **own)
    flags.DEFINE_integer("beam_size", 4, "Hypotheses of a sentence.", lower_bound=1, **own)
    flags.DEFINE_float("alpha", 0.6, "Exponent of the length penalty.", lower_bound=0, **own)
    flags.DEFINE_integer("extra_length", 100, "Tokens that an output may be longer than its input.", 0, **own)
    flags.DEFINE_integer("batch_size", 32, "Sentences translated at a time.", lower_bound=1, **own)
    flags.DEFINE_integer("max_length", 256, "Longest sentence, in tokens.", lower_bound=1, **own)
    flags.DEFINE_bool("truncate", False, "Cut sentences off at --max_length, instead of refusing them.", **own)


def make_search(model, vocabulary, values):
    """The search that the flags ask for, a function for `decoding.sentences.translate`.

    Args:
        model: `models.Transformer`.
        vocabulary: A vocabulary from `datasets.subwords.load`.
        values: The parsed flags of `define_flags`.

    Raises:
        CommandError: The vocabulary does not fit the model, or the beam does not fit the vocabulary.
    """
    from sparsity_tf.decoding import Decoder

    decoder = Decoder(model)
    if decoder.vocabulary_size != vocabulary.size:
        raise command.CommandError(
            f"{values.vocabulary} has {vocabulary.size} symbols, but the model of {values.checkpoint} has "
            f"{decoder.vocabulary_size}: it was trained with another vocabulary"
        )
    if values.greedy or values.beam_size == 1:
        return decoder.greedy
    if values.beam_size > vocabulary.size:
        raise command.CommandError(
            f"--beam_size must be at most the {vocabulary.size} symbols of the vocabulary. Received: {values.beam_size}"
        )

    def search(inputs, extra_length):
        return decoder.beam_search(inputs, values.beam_size, values.alpha, extra_length)

    return search


@contextlib.contextmanager
def explained_memory(values):
    """Says which flags to lower if the search needs more memory than there is."""
    try:
        yield
    except Exception as error:  # each backend raises errors of its own class
        if "OOM" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
            raise command.CommandError(
                "there is not enough memory: lower --beam_size or --batch_size. "
                f"Received: {values.beam_size} and {values.batch_size}"
            ) from error
        raise


def encode(lines, vocabulary, max_length, truncate=False, name="translate"):
    """The ids of each line, without the end of the sentence. An empty line gives an empty list.

    Args:
        lines: List of strings.
        vocabulary: A vocabulary from `datasets.subwords.load`.
        max_length: Largest number of ids in a line.
        truncate: If true, longer lines are cut off, and a note says so. If false, they are refused.
        name: Name of the command in the note.

    Raises:
        CommandError: A line is too long, or the vocabulary can't express it.
    """
    sentences, long = [], []
    for number, line in enumerate(lines, 1):
        try:
            ids = vocabulary.encode(line.strip()) if line.strip() else []
        except ValueError as error:
            raise command.CommandError(f"line {number}: {error}") from error
        if len(ids) > max_length:
            long.append((number, len(ids)))
        sentences.append(list(ids[:max_length]))
    if long:
        shown = ", ".join(f"line {number} has {length}" for number, length in long[:3])
        more = f" and {len(long) - 3} more" if len(long) > 3 else ""
        message = f"of at most {max_length} tokens a sentence ({shown}{more})"
        if not truncate:
            raise command.CommandError(f"sentences must be {message}: raise --max_length or pass --truncate")
        command.note(name, f"{len(long)} sentences were cut off {message}")
    return sentences


def decode(ids, vocabulary):
    """The texts of lists of ids, each one line."""
    return [" ".join(vocabulary.decode(one).splitlines()) for one in ids]


def set_log_alpha_threshold(model, threshold):
    """Sets the threshold of every variational dropout layer.

    Raises:
        CommandError: The model has no such layer.
    """
    from sparsity_tf.layers import SparseLayer, VariationalDropout, flatten_layers

    techniques = [layer.technique for layer in flatten_layers(model) if isinstance(layer, SparseLayer)]
    chosen = [technique for technique in techniques if isinstance(technique, VariationalDropout)]
    if not chosen:
        names = sorted({technique.name for technique in techniques}) or "none"
        raise command.CommandError(
            f"--log_alpha_threshold needs a model with variational dropout. Its techniques are: {names}"
        )
    for technique in chosen:
        technique.log_alpha_threshold = threshold


class Progress:
    """Shows progress on standard error: a bar on a terminal, otherwise one line every half minute."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self._begin = self._shown = time.monotonic()
        self._live = sys.stderr.isatty()

    def add(self, number):
        """Adds a number of sentences that are done."""
        self.done += number
        now = time.monotonic()
        if self._live or now - self._shown > 30:
            self._shown = now
            bar = "#" * (30 * self.done // self.total)
            rate = self.done / max(now - self._begin, 1e-9)
            text = f"[{bar:<30}] {self.done}/{self.total} sentences, {rate:.1f}/s"
            print(f"\r{text}" if self._live else text, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self):
        """Prints the final line."""
        seconds = time.monotonic() - self._begin
        print(f"{os.linesep if self._live else ''}{self.done} sentences in {seconds:.1f} s", file=sys.stderr)
