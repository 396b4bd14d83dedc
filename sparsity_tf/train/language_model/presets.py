"""The recipes of `python -m sparsity_tf.train.language_model` that have a name.

They are the modes of the `dst` package's character program (Mostafa and Wang, ICML 2019, arXiv 1902.05967), on its
training: two layers of 1,024 plain recurrent units, 50 epochs of windows of 50 characters, 128 at a time, RMSprop at
2e-3, weight decay 1e-5 on all parameters, no schedule and no clipping.

* `narang` is its mode "comp" (Narang et al. 2017, arXiv 1704.05119), with q = 0.1;
* `dsr` its mode "dst", that counts sparsity over the whole model: updates every 100 steps, every 200 from epoch 10,
  400 from 20, 800 from 30, none from 40 on. Its default target, 0.5, is 0.9 here; the threshold begins at 0.01;
* `static` is the control: as many weights, at random places, that never move.

`small_char_rnn_` are the same on LSTMs of 256 units, for minutes on one processor core.
"""

import dataclasses

from sparsity_tf.train.fields import named
from sparsity_tf.train.language_model.recipe import LanguageRecipe

# Its loss is the sum over the window, ours the mean: beside the gradient decay weighs the same at a fiftieth.
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
PRESETS.update(
    {
        f"small_{name}": dataclasses.replace(recipe, **_SMALL, **({"frequency": "50"} if name.endswith("dsr") else {}))
        for name, recipe in PRESETS.items()
    }
)


def get_preset(name):
    """The recipe of that name; an unknown one is a ValueError that lists the known ones."""
    return named(PRESETS, name)
