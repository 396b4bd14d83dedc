"""A callback, as `callbacks.serialize` describes it, and the settings of a recipe that make the same callback."""

import numpy as np
import pytest

from sparsity_tf import callbacks as c
from sparsity_tf import schedules
from sparsity_tf.train import callback_settings, sparsity_settings
from sparsity_tf.train.classifier.recipe import Recipe

DATA = (np.zeros((4, 3)), np.zeros(4))
ALGORITHMS = [
    c.MagnitudePruning(0.9, begin_step=10, end_step=500, frequency=50, schedule="linear", dense=["dense_3", "dense_1"]),
    c.MagnitudePruning(sparsity=0.9, scope="global"),
    c.MagnitudePruning(0.9, distribution={"dense_1": 0.95, "dense_2": 0.8}, where=["dense_1", "dense_2"]),
    c.RandomPruning(0.8, structure="4x1", cumulative=False),
    c.StaticSparsity(0.7, distribution="erk"),
    c.SET(0.7, drop="magnitude", drop_fraction=0.2),
    c.RigL(0.8, end_step=900, redistribution="nonzeros", decay="linear"),
    c.SparseMomentum(0.9, frequency=200),
    c.DynamicSparseReparameterization(0.9, prune_target=600, variant="paper"),
    c.NarangPruning(0.2, begin_step=5, end_step=90),
    c.SNIP(0.9, data=DATA),
    c.GraSP(0.9, data=DATA, temperature=200.0),
    c.IterativePruning(0.9, rounds=3, steps_per_round=20, rewind_step=10, scope="global"),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_a_recipe_makes_the_same_callback(algorithm):
    config = c.serialize(algorithm)
    recipe = Recipe(**callback_settings.of_config(config), seed=0, epochs=2)
    made = c.serialize(sparsity_settings.make(recipe, 10, lambda: DATA))
    expected = dict(config["config"])
    if "sparsity" in expected and "final_sparsity" in made["config"]:
        expected["final_sparsity"] = expected.pop("sparsity")
    if isinstance(expected.get("where"), list):
        # `where` of a recipe is one pattern, and a program gives it to `sparsify`, not to the callback.
        assert recipe.where == "(?:dense_1)|(?:dense_2)"
    expected.pop("where", None)
    assert made == {"class_name": config["class_name"], "config": expected}


def test_what_a_program_cannot_say():
    of = callback_settings.of_config
    with pytest.raises(ValueError, match="`frequency` of a callback must be a number or a name"):
        of(c.serialize(c.RigL(0.9, frequency=schedules.Piecewise([50], [10, 20]))))
    with pytest.raises(ValueError, match="`redistribution` of a callback must be"):
        of(c.serialize(c.SparseMomentum(redistribution=None)))
    with pytest.raises(ValueError, match="`callback` must have a class_name of .*RigL"):
        of(c.serialize(c.PenaltyRamp(num_examples=3)))
    with pytest.raises(ValueError, match="`callback` must have a class_name of"):
        of({"class_name": ["RigL"]})
    with pytest.raises(ValueError, match="`config` of RigL may hold"):
        of({"class_name": "RigL", "config": {"sparcity": 0.9}})
    with pytest.raises(ValueError, match="`sparsity` must be"):
        of({"class_name": "RigL", "config": {"sparsity": 1.5}})
