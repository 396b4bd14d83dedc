"""The presets of `python -m sparsity_tf.train.text_classifier`: recipes with a name.

`imdb_*` and `agnews_*` have the settings of Chirkova, Lobacheva and Vetrov (EMNLP 2018, arXiv 1810.10927) as in their
program `Experiments/*/main.py` and its released logs: an embedding of 300, an LSTM of 128 or 512, 20,000 words, padding
and unknown words beside, the first 200 or 100 words of a text, Adam at 5e-4, batches of 128, 800 or 150 epochs. The
penalty has its full weight from the first step. Give the texts as files of lines `label<TAB>text`. They begin with
vectors of word2vec and GloVe, these presets with random ones.

* `dense`: no technique. It overfits, so look at `best.keras`, which is chosen by the validation error;
* `weights`: variational dropout of all weights, one sample a mini-batch;
* `words`: group variables on the words, too;
* `groups`: group variables on words, inputs, units and gates.

`reviews_*` do the same with a network small enough for minutes on two processor cores, less noise at the beginning, a
penalty of 0.3 that rises in the first 5 epochs, and a learning rate that falls at the end, on the film reviews of

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    tar xzf vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz

(MIT licence): `--data_dir=hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt`, 10,605 sentences of Rotten Tomatoes
(Pang and Lee 2005), rated by 20 people each (Hutto and Gilbert, ICWSM 2014).
"""

from sparsity_tf.train.fields import named
from sparsity_tf.train.text_classifier.recipe import TextRecipe

_GROUPS = {
    "weights": [],
    "words": ["word"],
    "groups": ["word", "input", "unit", "gate"],
}
_DATA = {
    "imdb": {"vocabulary_size": 20_002, "held_out": 0.15, "length": 200, "hidden_size": 128, "epochs": 800},
    "agnews": {"vocabulary_size": 20_002, "held_out": 0.05, "length": 100, "hidden_size": 512, "epochs": 150},
    "reviews": {"min_count": 3, "length": 40, "embedding_size": 32, "hidden_size": 32, "learning_rate": 4e-3},
}
# With 8,454 texts the network must learn something before the penalty acts, or the penalty alone decides.
_SPARSE_REVIEWS = {"epochs": 15, "lr_schedule": "linear", "penalty_weight": 0.3, "penalty_end_epoch": 5.0}
_QUIET = {"log_sigma2_initializer": -8.0, "group_log_sigma2_initializer": -8.0}

PRESETS = {}
for _name, _settings in _DATA.items():
    _small = _name == "reviews"
    PRESETS[f"{_name}_dense"] = TextRecipe(**_settings, **({"epochs": 8} if _small else {}), keep_best=True)
    for _groups, _names in _GROUPS.items():
        PRESETS[f"{_name}_{_groups}"] = TextRecipe(
            **_settings,
            **(_SPARSE_REVIEWS if _small else {}),
            technique="group_variational_dropout",
            technique_options={"groups": _names, **(_QUIET if _small else {})},
        )


def get_preset(name):
    """The recipe with this name. For an unknown name, a ValueError lists the known names."""
    return named(PRESETS, name)
