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

import sys

from absl import flags

from sparsity_tf.decoding.sentences import translate
from sparsity_tf.tools import command, translation
from sparsity_tf.tools.translation import Progress, encode, set_log_alpha_threshold

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
    flags.DEFINE_string("checkpoint", None, "The model, a .keras file or a published checkpoint.", **own)
    flags.DEFINE_string("input", "-", "Text file, UTF-8, one sentence on each line; - is standard input.", **own)
    flags.DEFINE_string("output", "-", "File for the translations; - is standard output.", **own)
    flags.DEFINE_bool("overwrite", False, "Replace an output that is there already.", **own)
    translation.define_flags(values)
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
    search = translation.make_search(model, vocabulary, values)
    progress = Progress(sum(map(bool, sentences)))
    with translation.explained_memory(values):
        ids = translate(search, sentences, values.extra_length, values.batch_size, progress.add)
    progress.end()
    text = "".join(line + "\n" for line in translation.decode(ids, vocabulary))
    if not to_file:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    with command.appearing(values.output, values.overwrite) as unfinished:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())
