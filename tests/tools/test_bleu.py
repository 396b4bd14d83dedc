"""The command that computes BLEU: both recipes, against counts made here and Moses' own outputs."""

import collections
import math

import pytest

from sparsity_tf.tools import bleu

REFERENCES = [
    "Der EU-Beitritt kostet 3.5 Mio. Euro , sagte er .",
    "Ein kleiner Hund schläft auf dem Sofa .",
    "Das ist gut .",
]
HYPOTHESES = [
    "Der EU-Beitritt kostete 3.5 Mio. Euro , sagte sie .",
    "Ein kleiner Hund schläft auf einem Sofa .",
    "Das ist gut .",
]


def multi_bleu(hypotheses, references):
    """`multi-bleu.perl` for one reference: clipped precisions of a corpus, brevity penalty, no smoothing."""

    def ngrams(line, n):
        tokens = line.split()
        return collections.Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    logs = 0.0
    for n in range(1, 5):
        matches = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            found = ngrams(hypothesis, n)
            matches += (found & ngrams(reference, n)).total()
            total += found.total()
        if not matches:
            return 0.0
        logs += math.log(matches / total) / 4
    lengths = [sum(len(line.split()) for line in lines) for lines in (hypotheses, references)]
    return 100 * math.exp(logs + min(0, 1 - lengths[1] / lengths[0]))


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def run(*arguments):
    return bleu.main(["bleu", *arguments])


def test_compounds_are_split_as_by_the_published_script():
    assert bleu.split_compounds(["EU-Beitritt - x a-b-c"]) == ["EU ##AT##-##AT## Beitritt - x a ##AT##-##AT## b-c"]


def test_tokens_are_those_of_moses_with_escapes():
    [tokens] = bleu.moses_tokens(["Er sagte:„Das ist z.B. ein EU-Land“, ja…"])
    assert tokens == "Er sagte : „ Das ist z.B. ein EU-Land &quot; , ja ..."
    assert bleu.moses_tokens(["Kosten：3.5 Mio. （heute）"]) == ["Kosten : 3.5 Mio. ( heute )"]
    assert bleu.moses_tokens(['A & "B" [c]']) == ["A &amp; &quot; B &quot; &#91; c &#93;"]


def test_published_recipe_equals_multi_bleu_of_the_tokens():
    score = bleu.published_score(HYPOTHESES, [REFERENCES]).score
    texts = [bleu.split_compounds(bleu.moses_tokens(lines)) for lines in (HYPOTHESES, REFERENCES)]
    assert 40 < score < 90
    assert score == pytest.approx(multi_bleu(*texts), abs=1e-9)
    # Splitting compounds changes it.
    assert score != pytest.approx(
        multi_bleu(*(bleu.moses_tokens(lines) for lines in (HYPOTHESES, REFERENCES))), abs=0.1
    )


def test_no_match_of_four_tokens_is_zero_without_smoothing():
    assert bleu.published_score(["a b c x"], [["a b c d"]]).score == 0.0
    assert bleu.sacrebleu_score(["a b c x"], [["a b c d"]])[0].score > 0


def test_tokenized_references_are_not_tokenized_again():
    tokens = ["Er sagte : &quot; gut &quot; ."]
    assert bleu.published_score(['Er sagte: "gut".'], [tokens], tokenized_references=True).score == pytest.approx(100)
    assert bleu.published_score(['Er sagte: "gut".'], [tokens]).score < 100


def test_command_prints_both_with_the_signature(tmp_path, capsys):
    hypotheses = write(tmp_path / "hypotheses", HYPOTHESES)
    references = write(tmp_path / "references", REFERENCES)
    assert run(f"--hypotheses={hypotheses}", f"--references={references}") == 0
    first, second = capsys.readouterr().out.splitlines()
    score = bleu.sacrebleu_score(HYPOTHESES, [REFERENCES])[0].score
    assert first.startswith(f"sacreBLEU BLEU = {score:.2f} ")
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in first
    assert f"BLEU = {bleu.published_score(HYPOTHESES, [REFERENCES]).score:.2f} " in second


def test_several_references(tmp_path, capsys):
    paths = [write(tmp_path / str(k), lines) for k, lines in enumerate((HYPOTHESES, REFERENCES, HYPOTHESES))]
    assert run(f"--hypotheses={paths[0]}", f"--references={paths[1]},{paths[2]}") == 0
    assert "BLEU = 100.00" in capsys.readouterr().out


def test_unequal_numbers_of_lines_are_an_error(tmp_path, capsys):
    hypotheses = write(tmp_path / "hypotheses", HYPOTHESES)
    references = write(tmp_path / "references", REFERENCES[:2])
    assert run(f"--hypotheses={hypotheses}", f"--references={references}") == 1
    error = capsys.readouterr().err
    assert f"equally many lines: {hypotheses} has 3, {references} has 2" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "can't be read"), (b"", "is empty"), (b"\n\n", "is empty"), (b"a\n\xff\n", "line 2 is not UTF-8")],
)
def test_files_that_cannot_be_read(tmp_path, capsys, content, message):
    path = tmp_path / "hypotheses"
    if content is not None:
        path.write_bytes(content)
    assert run(f"--hypotheses={path}", f"--references={write(tmp_path / 'references', REFERENCES)}") == 1
    assert message in capsys.readouterr().err


def test_wrong_usage(capsys):
    assert run() == 2
    assert "--hypotheses is required" in capsys.readouterr().err
