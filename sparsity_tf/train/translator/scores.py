"""Scores translations with BLEU. This module imports nothing of Keras, so that the command `bleu` starts without it."""

import re

from sparsity_tf.extras import import_optional

_COMPOUND = re.compile(r"(\S)-(\S)")


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


def published_score(hypotheses, references, language="de", tokenized_references=False):
    """BLEU by the recipe of The State of Sparsity (its `get_ende_bleu.sh`).

    Args:
        hypotheses: List of strings.
        references: List of lists of strings, one list a reference.
        language: Language code for Moses' tokenizer.
        tokenized_references: Whether the references are already tokenised by Moses.

    Returns:
        `sacrebleu.BLEUScore`, computed as `multi-bleu.perl` does.
    """
    metrics = import_optional("sacrebleu.metrics")
    tokens = moses_tokens(hypotheses, language)
    if not tokenized_references:
        references = [moses_tokens(reference, language) for reference in references]
    references = [split_compounds(reference) for reference in references]
    # Without `force` sacreBLEU would warn that the text is already tokenised, which is intended here.
    metric = metrics.BLEU(tokenize="none", smooth_method="none", force=True)
    return metric.corpus_score(split_compounds(tokens), references)


def moses_tokens(lines, language="de"):
    """Processes lines as `replace-unicode-punctuation.perl` and `tokenizer.perl` do, escapes (`&quot;`) included."""
    sacremoses = import_optional("sacremoses")
    punctuation, tokenizer = sacremoses.MosesPunctNormalizer(lang=language), sacremoses.MosesTokenizer(lang=language)
    return [tokenizer.tokenize(punctuation.replace_unicode_punct(line), return_str=True) for line in lines]


def split_compounds(lines):
    """Splits compounds at their hyphens: "a-b" becomes "a ##AT##-##AT## b"."""
    return [_COMPOUND.sub(r"\1 ##AT##-##AT## \2", line) for line in lines]
