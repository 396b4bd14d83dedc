r"""Translates a text, which has one sentence on each line, with a trained Transformer.

```
python -m sparsity_tf.train.translate --checkpoint=model.keras --vocabulary=vocabulary.model \
    --input=newstest2014.en --output=newstest2014.de [--greedy] [--beam_size=4] [--alpha=0.6]
```

`--input=-` reads standard input, `--output=-` writes to standard output. Sentences of about the same length are
translated together, the longest first. The output has the order of the input, and an empty line stays empty. The output
file appears under its name only when it is complete. Progress goes to standard error.

Exit status: 0, 1 (a file can't be read or written, or a text can't be translated) or 2 (wrong usage).
"""

import os
import sys
import time

from absl import flags

from sparsity_tf.decoding.sentences import translate
from sparsity_tf.tools import command

_NAME = "translate"


def main(argv=None):
    """Runs the command.

    Args:
        argv: List of str, program name first; `sys.argv` by default.

    Returns:
        int, the exit status: 0 success, 1 the command failed, 2 wrong usage.
    """
    return command.run(_NAME, __doc__, _define_flags, _translate_file, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("checkpoint", None, "The model, a .keras file.", **own)
    flags.DEFINE_string(
        "vocabulary",
        None,
        "The vocabulary that the model was trained with: a SentencePiece or tensor2tensor file.",
        **own,
    )
    flags.DEFINE_string("input", "-", "Text file, UTF-8, one sentence on each line; - is standard input.", **own)
    flags.DEFINE_string("output", "-", "File for the translations; - is standard output.", **own)
    flags.DEFINE_bool("overwrite", False, "Replace an output that is there already.", **own)
    flags.DEFINE_bool(
        "greedy", False, "Always take the most probable token, without beam search. The same as --beam_size=1.", **own
    )
    flags.DEFINE_integer(
        "beam_size",
        4,
        "Number of partial translations that the beam search keeps for each sentence.",
        lower_bound=1,
        **own,
    )
    flags.DEFINE_float("alpha", 0.6, "Exponent of the length penalty.", lower_bound=0, **own)
    flags.DEFINE_integer("extra_length", 100, "How many tokens longer than its input a translation may be.", 0, **own)
    flags.DEFINE_integer("batch_size", 32, "Sentences translated at a time.", lower_bound=1, **own)
    flags.DEFINE_integer("max_length", 256, "Longest sentence, in tokens.", lower_bound=1, **own)
    flags.DEFINE_bool("truncate", False, "Cut sentences off at --max_length, instead of refusing them.", **own)
    flags.DEFINE_float(
        "log_alpha_threshold",
        None,
        "For variational dropout: weights with a log alpha of this number or more become zero.",
        **own,
    )


def _translate_file(values):
    for flag in ("checkpoint", "vocabulary"):
        if not values[flag].value:
            raise flags.Error(f"Flag --{flag} is required")
    to_file = values.output != "-"
    if to_file:
        sources = {flag: values[flag].value for flag in ("input", "checkpoint", "vocabulary")}
        command.check_output(values.output, "", values.overwrite, **sources)
    lines = command.read_lines(values.input)
    from sparsity_tf.datasets.text import subwords

    vocabulary = subwords.load(values.vocabulary)
    sentences = encode(lines, vocabulary, values.max_length, values.truncate)
    model = command.load_model(values.checkpoint)
    if values.log_alpha_threshold is not None:
        set_log_alpha_threshold(model, values.log_alpha_threshold)
    from sparsity_tf.decoding import Decoder

    decoder = Decoder(model)
    if decoder.vocabulary_size != vocabulary.size:
        raise command.CommandError(
            f"{values.vocabulary} has {vocabulary.size} symbols, but the model of {values.checkpoint} has "
            f"{decoder.vocabulary_size}: it was trained with another vocabulary"
        )
    if values.greedy or values.beam_size == 1:
        search = decoder.greedy
    elif values.beam_size > vocabulary.size:
        raise command.CommandError(
            f"--beam_size must be at most the {vocabulary.size} symbols of the vocabulary. Received: {values.beam_size}"
        )
    else:

        def search(inputs, extra_length):
            return decoder.beam_search(inputs, values.beam_size, values.alpha, extra_length)

    progress = Progress(sum(map(bool, sentences)))
    try:
        ids = translate(search, sentences, values.extra_length, values.batch_size, progress.add)
    except Exception as error:  # each backend raises errors of its own class
        if "OOM" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
            raise command.CommandError(
                "there is not enough memory: lower --beam_size or --batch_size. "
                f"Received: {values.beam_size} and {values.batch_size}"
            ) from error
        raise
    progress.end()
    text = "".join(_one_line(vocabulary.decode(one)) + "\n" for one in ids)
    if not to_file:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with command.appearing(values.output, values.overwrite) as unfinished:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)


def encode(lines, vocabulary, max_length, truncate=False):
    """The ids of each line, without the end of the sentence. An empty line gives an empty list.

    Args:
        lines: List of strings.
        vocabulary: A vocabulary from `datasets.subwords.load`.
        max_length: Largest number of ids in a line.
        truncate: If true, longer lines are cut off, and a note says so. If false, they are refused.

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
        command.note(_NAME, f"{len(long)} sentences were cut off {message}")
    return sentences


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


def _one_line(text):
    return " ".join(text.splitlines())


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


if __name__ == "__main__":
    sys.exit(main())
