"""What the translator says while it trains and at its end: rows of figures, translations and BLEU."""

import numpy as np

from sparsity_tf.tools.bleu import sacrebleu_score
from sparsity_tf.tools.translate import translate
from sparsity_tf.train import log


class TranslationLog(log.EpochLog):
    """The `EpochLog` of the translator: what `fit` found on training and validation data.

    Accuracies are fractions, cross-entropies in nats a subword, their exponentials are perplexities.
    """

    def figures(self, logs):
        found = {}
        for prefix in ("", "val_"):
            found.update({prefix + name: float(logs[prefix + name]) for name in ("accuracy", "cross_entropy")})
            found[f"{prefix}perplexity"] = float(np.exp(found[f"{prefix}cross_entropy"]))
        found["val_loss"] = float(logs["val_loss"])
        return found

    def line(self, row):
        return (
            f"step {row['step']:,}  loss {row['loss']:.4f}  validation: perplexity {row['val_perplexity']:.2f}, "
            f"accuracy {100 * row['val_accuracy']:.2f} %  {log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )


def translate_texts(model, vocabulary, texts, beam_size=4, alpha=0.6, extra_length=100, batch_size=32):
    """Translates texts with the weights that the model has now.

    Args:
        model: A model of `models.Transformer`.
        vocabulary: Its `subwords.Vocabulary`.
        texts: List of strings.
        beam_size: Width of the beam; 1: greedy.
        alpha: Exponent of the length penalty.
        extra_length: Subwords that a translation may be longer than its source.
        batch_size: Texts at a time.

    Returns:
        A list of strings in the order of `texts`.
    """
    from sparsity_tf.decoding import Decoder

    decoder = Decoder(model)

    def search(inputs, extra_length):
        if beam_size == 1:
            return decoder.greedy(inputs, extra_length)
        return decoder.beam_search(inputs, beam_size, alpha, extra_length)

    found = translate(search, vocabulary.encode_all(list(texts)), extra_length, batch_size)
    return [vocabulary.decode(ids) for ids in found]


def bleu(translations, references):
    """SacreBLEU of translations, 0 to 100, and its signature (Post, 2018, arXiv 1804.08771)."""
    score, signature = sacrebleu_score(translations, [references])
    return score.score, signature
