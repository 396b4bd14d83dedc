"""Dynamic sparse reparameterization of whole kernels, blocks and filters."""

import keras
import numpy as np
import pytest

from sparsity_tf import layers
from sparsity_tf.callbacks import DynamicSparseReparameterization
from sparsity_tf.inspection import sparsity_table
from tests.callbacks.bags import make_bag, masks_of, values_of


def prepared(values, sparsity=0.5, masks=None, **options):
    model = make_bag(values, masks)
    algorithm = DynamicSparseReparameterization(sparsity, **{"end_step": 100, "structure": "2x1", **options})
    algorithm.prepare(model)
    return model, algorithm


def test_the_mean_magnitude_of_a_block_decides():
    """Blocks of two inputs of an output unit. H is 1e-3: a mean of 1.5e-3 stays, one of 0.5e-3 goes."""
    values = np.array([[3e-3, 1e-3, 1.0], [1e-9, 1e-9, 1.0]])
    other = np.array([[0.5, 0.0], [0.5, 0.0]])
    model, algorithm = prepared([values, other], prune_target=1)
    assert algorithm.prune_by_threshold() == {"part0/kernel": (6, 4), "part1/kernel": (2, 2)}
    assert masks_of(model)[0].tolist() == [[True, False, True]] * 2
    assert algorithm.adjust_pruning_threshold() == 1e-3  # One group was pruned, as wanted.
    # The block that was just pruned does not come back, so the other weight grows.
    assert algorithm.reallocate_free_parameters() == {"part0/kernel": 0, "part1/kernel": 2}
    assert masks_of(model)[1].all() and np.count_nonzero(values_of(model)[1]) == 2


def test_a_share_as_the_target_is_a_share_of_the_groups():
    values = np.ones((4, 10))
    values[:, :3] = 1e-5  # Six of twenty groups go. One more is masked from the start.
    values[:2, 9] = 0
    for target, expected in ((0.3, 1e-3), (0.2, 5e-4), (0.4, 2e-3)):
        _, algorithm = prepared([values], prune_target=target)
        algorithm.prune_by_threshold()
        assert algorithm.adjust_pruning_threshold() == expected


def test_a_group_that_was_pruned_in_part_keeps_its_rest_alone():
    mask = np.array([[True, True, False, True], [False, True, False, True]])
    model, algorithm = prepared([np.ones((2, 4))], masks=[mask], prune_target=1)
    algorithm.change_masks(1)
    np.testing.assert_array_equal(masks_of(model)[0], mask)


def test_the_last_group_of_a_weight_is_kept():
    model, algorithm = prepared([np.full((2, 3), 1e-5), np.ones((2, 3))])
    algorithm.prune_by_threshold()
    assert masks_of(model)[0].tolist() == [[True, False, False]] * 2


def convolutions():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.MaskedConv2D(12, 3, activation="relu", name="a"),
            layers.MaskedConv2D(20, 3, activation="relu", name="b"),
            keras.layers.GlobalAveragePooling2D(),
            layers.MaskedDense(3, name="logits"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=keras.backend.backend() == "jax")
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(16, 8, 8, 4)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(masks_of(self.model))


def test_whole_kernels_move_between_layers_and_their_number_stays(tmp_path):
    model, x, y = convolutions()
    watch = Watch()
    options = dict(structure="3x3x1x1", where=["a", "b"], frequency=2, prune_target=20, initial_threshold=0.05)
    dsr = DynamicSparseReparameterization(0.7, end_step=12, **options)
    model.fit(x, y, batch_size=4, epochs=4, verbose=0, callbacks=[watch, dsr])
    # Of 48 kernels 14 live at first, of 240 72.
    counts = []
    for a, b, logits in watch.seen:
        for mask in (a, b):
            assert (mask == mask[:1, :1]).all()  # All nine weights of a kernel, or none.
        assert logits.all()
        counts.append((a[0, 0].sum(), b[0, 0].sum()))
    assert {sum(pair) for pair in counts} == {14 + 72}
    assert counts[0] == (14, 72) and len(set(counts)) > 1
    changed = [not np.array_equal(one[0], other[0]) for one, other in zip(watch.seen, watch.seen[1:], strict=False)]
    assert {step for step, new in enumerate(changed, 2) if new} <= {2, 4, 6, 8, 10, 12} and sum(changed) > 2
    # The structure is saved with the layers, and a later run keeps it.
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    assert loaded.get_layer("a").technique.structure == "3x3x1x1"
    again = DynamicSparseReparameterization(0.7, end_step=40, where=["a", "b"], initial_threshold=0.05, frequency=1)
    again.prepare(loaded)
    again.change_masks(30)
    assert all((mask == mask[:1, :1]).all() for mask in masks_of(loaded)[:2])
    assert sparsity_table(loaded).live == 9 * 86 + 60


def test_filters_move_and_output_units_stay():
    model, x, y = convolutions()
    dsr = DynamicSparseReparameterization(
        0.5, structure="filter", frequency=1, end_step=6, prune_target=4, initial_threshold=0.1
    )
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[dsr])
    a, b, logits = masks_of(model)
    assert logits.all()
    alive = [mask.reshape(-1, mask.shape[-1]) for mask in (a, b)]
    assert all((mask == mask[:1]).all() for mask in alive)
    assert sum(mask[0].sum() for mask in alive) == 6 + 10 and sum(dsr.dropped.values()) > 0


@pytest.mark.parametrize(
    "options,message",
    [
        ({"structure": "2:4"}, "DynamicSparseReparameterization moves whole groups.*2:4.*structure='2:4'"),
        ({"structure": "channel"}, "a pruned channel can't come back"),
        ({"structure": "2x1", "variant": "model"}, "`structure` must be None with variant='model'.*structure='2x1'"),
    ],
)
def test_what_can_not_be_moved_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicSparseReparameterization(**options)


@pytest.mark.parametrize(
    "structure,options,message",
    [
        ("2:4", {}, "moves whole groups.*layer .*with structure='2:4'"),
        ("2x1", {"variant": "model"}, "`structure` must be None with variant='model'.*structure='2x1' of"),
        ("3x3x1x1", {}, "must not have more axes than the weight.*3x3x1x1"),
    ],
)
def test_structures_of_layers_that_do_not_fit_are_refused(structure, options, message):
    model = keras.Sequential([keras.Input((8,)), layers.MaskedDense(8, structure=structure)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=message):
        DynamicSparseReparameterization(0.5, end_step=5, **options).prepare(model)
