r"""Scores translations: sacreBLEU's score, and the BLEU of *The State of Sparsity* for comparison with its tables.

```
python -m sparsity_tf.train.bleu --hypotheses=newstest2014.out.de --references=newstest2014.de
```

The first line of the output is sacreBLEU (Post, 2018, arXiv 1804.08771) with its signature; this is the figure to
publish. The second line follows the recipe of the paper's figures: Moses' punctuation and tokens (through sacremoses),
compounds split at hyphens, and the BLEU of `multi-bleu.perl`, without smoothing. Pass `--tokenized_references` if the
references are tokenised already, as the paper's are. Both scores are case-sensitive.

Exit status: 0, 1 (a file can't be read, or the texts can't be compared) or 2 (wrong usage).
"""

import sys

from absl import flags

from sparsity_tf.tools import command
from sparsity_tf.train.translator.scores import (  # noqa: F401
    moses_tokens,
    published_score,
    sacrebleu_score,
    split_compounds,
)


def main(argv=None):
    """Runs the command.

    Args:
        argv: List of str, program name first; `sys.argv` by default.

    Returns:
        int, the exit status: 0 success, 1 the command failed, 2 wrong usage.
    """
    return command.run("bleu", __doc__, _define_flags, _compare_files, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string(
        "hypotheses", None, "The translations: a text file with one sentence on each line; - is standard input.", **own
    )
    flags.DEFINE_list(
        "references",
        None,
        "The references: a text file with one sentence on each line, or several files separated by commas.",
        **own,
    )
    flags.DEFINE_string("language", "de", "Language of the texts, such as de: Moses' tokens depend on it.", **own)
    flags.DEFINE_bool("tokenized_references", False, "The references are already tokenized by Moses.", **own)


def _compare_files(values):
    for flag in ("hypotheses", "references"):
        if not values[flag].value:
            raise flags.Error(f"Flag --{flag} is required")
    hypotheses = command.read_lines(values.hypotheses)
    references = [command.read_lines(path) for path in values.references]
    for path, lines in zip(values.references, references, strict=True):
        if len(lines) != len(hypotheses):
            raise command.CommandError(
                f"hypotheses and references must have equally many lines: {values.hypotheses} has {len(hypotheses)}, "
                f"{path} has {len(lines)}"
            )
    score, signature = sacrebleu_score(hypotheses, references)
    print(f"sacreBLEU {score}  {signature}")
    published = published_score(hypotheses, references, values.language, values.tokenized_references)
    print(f"BLEU of The State of Sparsity (Moses tokens, compounds split) {published}")


if __name__ == "__main__":
    sys.exit(main())
