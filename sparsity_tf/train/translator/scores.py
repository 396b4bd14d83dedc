"""Scores translations with BLEU. This module imports nothing of Keras, so that the command `bleu` starts without it."""

from sparsity_tf.extras import import_optional


def sacrebleu_score(hypotheses, references):
    """BLEU with sacreBLEU's defaults.

    Args:
        hypotheses: List of strings.
        references: List of lists of strings, one list a reference.

    Returns:
        (`sacrebleu.BLEUScore`, signature).
    """
    metric = import_optional("sacrebleu.metrics").BLEU()
    return metric.corpus_score(hypotheses, references), str(metric.get_signature())
