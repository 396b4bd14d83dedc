"""The presets of `python -m sparsity_tf.train.language_model`: recipes with a name.

The recipes follow the character program of the `dst` package (Mostafa and Wang, ICML 2019, arXiv 1902.05967), its modes
and its training: two layers of 1,024 plain recurrent units, 50 epochs of batches of 128 windows of 50 characters,
RMSprop at 2e-3, weight decay 1e-5 on all parameters, no schedule and no clipping.

* `narang` is the program's mode "comp" (Narang et al. 2017, arXiv 1704.05119), with q = 0.1;
* `dsr` is its mode "dst", which counts sparsity over the whole model. Masks are updated every 100 steps, every 200 from
  epoch 10, every 400 from epoch 20, every 800 from epoch 30, and not at all from epoch 40 on. The target is 0.9 here
  (0.5 by default in the program), and the threshold begins at 0.01;
* `static` is the control: the same number of weights at random places that never change.

`char_rnn_bayesian` follows the program of Chirkova, Lobacheva and Vetrov (EMNLP 2018, arXiv 1810.10927; for gates
Lobacheva et al., arXiv 1812.05692): an LSTM of 1,000 units, 250 epochs of batches of 64 windows of 100 characters, Adam
at 2e-3, clipping at 1, group variables on inputs (one for each character), units and gates, and a penalty of full
weight from the first step. Its initial weights are those of `CharRNN`. (Theirs are orthogonal.)

The recipes `small_char_rnn_` do the same with LSTMs of 256 units. They take minutes on one processor core.
"""

import dataclasses

from sparsity_tf.train.fields import named
from sparsity_tf.train.language_model.recipe import LanguageRecipe

# The program's loss is the sum over the 50 characters of a window, and ours is the mean. Our gradient is a fiftieth of
# the program's, so the weight decay must be a fiftieth, too.
_DST = {"kernel_l2": 1e-5 / 2 / 50}
_DSR = {
    "technique": "dsr",
    "final_sparsity": 0.9,
    "technique_options": {"variant": "model", "initial_threshold": 1e-2},
    "prune_target": 0.01,
}

PRESETS = {
    "char_rnn_dense": LanguageRecipe(**_DST),
    "char_rnn_narang": LanguageRecipe(**_DST, technique="narang", technique_options={"target_magnitude": 0.1}),
    "char_rnn_static": LanguageRecipe(**_DST, technique="static", final_sparsity=0.9),
    "char_rnn_dsr": LanguageRecipe(**_DST, **_DSR, frequency="0:100,10:200,20:400,30:800,40:1000000000"),
}
PRESETS["char_rnn_bayesian"] = LanguageRecipe(
    cell="lstm",
    hidden_size=1000,
    depth=1,
    window=100,
    batch_size=64,
    kernel_l2=0.0,
    optimizer="adam",
    clip_norm=1.0,
    epochs=250,
    technique="group_variational_dropout",
    technique_options={"groups": ["input", "unit", "gate"]},
)

_SMALL = {
    "kernel_l2": 5e-6,
    "cell": "lstm",
    "hidden_size": 256,
    "vocabulary_size": 128,
    "batch_size": 32,
    "optimizer": "adam",
    "lr_schedule": "linear",
    "clip_norm": 1.0,
    "epoch_steps": 200,
    "epochs": 10,
}
# The prior of the weights takes the place of weight decay.
_OF_SMALL = {"char_rnn_dsr": {"frequency": "50"}, "char_rnn_bayesian": {"kernel_l2": 0.0}}
PRESETS.update(
    {
        f"small_{name}": dataclasses.replace(recipe, **{**_SMALL, **_OF_SMALL.get(name, {})})
        for name, recipe in PRESETS.items()
    }
)


def get_preset(name):
    """The recipe with this name. For an unknown name, a ValueError lists the known names."""
    return named(PRESETS, name)
