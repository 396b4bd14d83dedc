import keras
import numpy as np
import pytest
from keras import layers as kl

import sparsity_tf
from sparsity_tf import sparsify
from sparsity_tf.inspection import count_flops
from sparsity_tf.inspection.flops import FlopsRow, FlopsTable
from sparsity_tf.layers import FastGRNN, MaskedConv2D, MaskedDense, STRFastGRNN, fold_rank
from sparsity_tf.models import DotProductAttention


def sequential(*layers, shape, dtype="float32"):
    return keras.Sequential([kl.Input(shape, dtype=dtype), *layers])


def keep(variable, count):
    """Leaves exactly `count` non-zero entries."""
    values = np.zeros(variable.shape, "float32").ravel()
    values[:count] = 1.5
    variable.assign(values.reshape(variable.shape))


def row(table, name):
    (found,) = [r for r in table.rows if r.name.split("/")[-1] == name]
    return found


# One layer of each kind, by hand: input shape, layer, weight, multiply-accumulates a weight,
# outputs.
KINDS = {
    "dense": ((5,), lambda: kl.Dense(3), "kernel", 1, 3),
    "dense_on_a_sequence": ((7, 5), lambda: kl.Dense(3), "kernel", 7, 21),
    "conv1d_causal": ((9, 2), lambda: kl.Conv1D(4, 3, padding="causal"), "kernel", 9, 36),
    "conv2d_valid": ((8, 10, 3), lambda: kl.Conv2D(4, 3), "kernel", 6 * 8, 6 * 8 * 4),
    "conv2d_same_strided": (
        (9, 9, 3),
        lambda: kl.Conv2D(4, 3, strides=2, padding="same"),
        "kernel",
        25,
        100,
    ),
    "conv2d_dilated": ((9, 9, 3), lambda: kl.Conv2D(4, 3, dilation_rate=2), "kernel", 25, 100),
    "conv2d_grouped": ((6, 6, 4), lambda: kl.Conv2D(8, 3, groups=2), "kernel", 16, 128),
    "conv3d": ((4, 5, 6, 2), lambda: kl.Conv3D(3, 2), "kernel", 3 * 4 * 5, 3 * 4 * 5 * 3),
    "depthwise": ((6, 6, 4), lambda: kl.DepthwiseConv2D(3, depth_multiplier=2), "kernel", 16, 128),
    "transposed": (
        (5, 5, 3),
        lambda: kl.Conv2DTranspose(2, 3, strides=2),
        "kernel",
        25,
        11 * 11 * 2,
    ),
    "einsum": ((7, 6), lambda: kl.EinsumDense("abc,cde->abde", (None, 2, 5)), "kernel", 7, 70),
    "einsum_with_ellipsis": (
        (7, 3, 6),
        lambda: kl.EinsumDense("...x,xy->...y", 4),
        "kernel",
        21,
        84,
    ),
    "einsum_two_axes": (
        (7, 2, 6),
        lambda: kl.EinsumDense("abcd,cde->abe", (None, 5)),
        "kernel",
        7,
        35,
    ),
}


@pytest.mark.parametrize("density", [1.0, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_costs_its_non_zero_weights_at_every_position(kind, density):
    shape, layer, weight, uses, outputs = KINDS[kind]
    model = sequential(layer(), shape=shape)
    variable = getattr(model.layers[0], weight)
    size = int(np.prod(variable.shape))
    nonzeros = int(density * size)
    keep(variable, nonzeros)

    mac = count_flops(model)
    assert (mac.dense, mac.sparse) == (size * uses, nonzeros * uses)
    assert (mac.params_dense, mac.params_nonzero) == (size, nonzeros)
    # V multiplications, V - 1 additions, 1 bias addition and 1 ReLU multiplication an output
    # element.
    rigl = count_flops(model, convention="rigl")
    assert (rigl.dense, rigl.sparse) == (2 * size * uses + outputs, 2 * nonzeros * uses + outputs)


def test_a_separable_convolution_is_a_depthwise_and_a_pointwise_one():
    model = sequential(kl.SeparableConv2D(5, 3, depth_multiplier=2), shape=(6, 6, 4))
    keep(model.layers[0].depthwise_kernel, 10)
    keep(model.layers[0].pointwise_kernel, 7)
    table = count_flops(model)
    assert table.dense == 16 * (9 * 4 * 2) + 16 * (8 * 5)
    assert table.sparse == 16 * (10 + 7)
    # Two operations a product, and a bias and a ReLU for each of 8 and of 5 channels.
    assert count_flops(model, "rigl").dense == 2 * table.dense + 16 * (8 + 5)


@pytest.mark.parametrize("padding,positions", [("valid", 4 * 3), ("same", 6 * 5)])
def test_a_recurrent_convolution_works_at_every_position_of_every_step(padding, positions):
    model = sequential(kl.ConvLSTM2D(2, 3, padding=padding), shape=(4, 6, 5, 3))
    cell = model.layers[0].cell
    keep(cell.kernel, 50)
    keep(cell.recurrent_kernel, 30)
    table = count_flops(model)
    assert table.dense == 4 * positions * (9 * 3 * 8 + 9 * 2 * 8)
    assert table.sparse == 4 * positions * (50 + 30)
    outputs = 4 * positions * 8
    assert count_flops(model, convention="rigl").dense == 2 * table.dense + outputs


SPARSE_FORMS = {
    "Conv1DTranspose": ((6, 3), {"filters": 4, "kernel_size": 3, "strides": 2}),
    "Conv2DTranspose": ((4, 5, 3), {"filters": 4, "kernel_size": 3}),
    "Conv3DTranspose": ((3, 3, 3, 2), {"filters": 2, "kernel_size": 2}),
    "DepthwiseConv1D": ((7, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    "SeparableConv1D": ((7, 3), {"filters": 4, "kernel_size": 3, "strides": 2}),
    "SeparableConv2D": ((6, 7, 3), {"filters": 4, "kernel_size": 2, "padding": "same"}),
    "ConvLSTM1D": ((3, 6, 2), {"filters": 2, "kernel_size": 3}),
}


@pytest.mark.parametrize("kind", SPARSE_FORMS)
@pytest.mark.parametrize("convention", ["mac", "rigl"])
def test_a_sparse_form_counts_as_the_stock_layer_with_the_same_zeros(kind, convention):
    shape, options = SPARSE_FORMS[kind]
    model = sequential(getattr(kl, kind)(**options), shape=shape)
    before = count_flops(model, convention)
    rng = np.random.default_rng(0)
    for weight in sparsity_tf.get_sparse_weights(sparsity_tf.sparsify(model, "masked")):
        weight.assign_mask(rng.random(weight.shape) < 0.4)
    sparse, dense = count_flops(model, convention), count_flops(sparsity_tf.to_dense(model), convention)
    assert before.dense == before.sparse == sparse.dense == dense.dense > sparse.sparse == dense.sparse > 0
    assert not sparse.not_counted
    table = sparsity_tf.inspection.sparsity_table(model)
    live = sum(weight.count() for weight in sparsity_tf.get_sparse_weights(model))
    assert (table.size, table.nonzeros) == (sparse.params_dense, sparse.params_nonzero) and table.nonzeros == live


def test_even_kernels_with_same_padding_follow_the_output_size_of_rigl():
    model = sequential(kl.Conv2D(1, 2, strides=1, padding="same", use_bias=False), shape=(4, 4, 1))
    keep(model.layers[0].kernel, 4)
    assert count_flops(model).dense == 16 * 4
    # ceil((4 - 2 + 1 + 2 * 1) / 1) = 5
    assert count_flops(model, convention="rigl").dense == 25 * (2 * 4 + 1)


def test_channels_first_convolutions_count_the_same():
    model = sequential(kl.Conv2D(4, 3, strides=2, padding="same", data_format="channels_first"), shape=(3, 9, 9))
    assert count_flops(model).dense == 25 * 108
    assert count_flops(model, convention="rigl").dense == 25 * (2 * 108 + 4)


def test_global_average_pooling_adds_one_addition_per_input_under_mac_only():
    model = sequential(kl.GlobalAveragePooling2D(), shape=(7, 7, 10))
    assert count_flops(model).dense == 490
    assert count_flops(model, convention="rigl").dense == 0


def test_a_lookup_costs_nothing_but_its_weights_are_counted():
    table = count_flops(sequential(kl.Embedding(50, 4), shape=(9,), dtype="int32"))
    assert (table.dense, table.params_dense, table.not_counted) == (0, 200, [])


@pytest.mark.parametrize("tied", [True, False])
def test_a_reversible_embedding_costs_a_product_in_reverse(tied):
    embedding = kl.ReversibleEmbedding(50, 4, tie_weights=tied)
    tokens = kl.Input((9,), dtype="int32")
    model = keras.Model(tokens, embedding(embedding(tokens), reverse=True))
    keep(embedding.embeddings if tied else embedding.reverse_embeddings, 30)
    table = count_flops(model)
    assert table.rows[0].calls == 2
    assert (table.dense, table.sparse) == (9 * 200, 9 * 30)


@pytest.mark.parametrize("convention", ["mac", "rigl"])
def test_a_lookup_in_a_reversible_embedding_costs_nothing(convention):
    model = sequential(kl.ReversibleEmbedding(3, 4), shape=(9,), dtype="int32")
    assert count_flops(model, convention).dense == 0


@pytest.mark.parametrize("layer, gates", [(kl.SimpleRNN, 1), (kl.LSTM, 4), (kl.GRU, 3)])
def test_a_recurrent_layer_uses_both_kernels_at_every_step(layer, gates):
    model = sequential(layer(6), shape=(8, 5))
    keep(model.layers[0].cell.kernel, 7)
    keep(model.layers[0].cell.recurrent_kernel, 9)
    table = count_flops(model)
    assert (table.dense, table.sparse) == (8 * gates * 6 * (5 + 6), 8 * (7 + 9))
    # One sum over inputs and state an output element.
    assert count_flops(model, convention="rigl").dense == 8 * gates * 6 * (2 * 11 + 1)


def test_a_fast_grnn_costs_its_matrices_or_their_factors():
    full = sequential(FastGRNN(6), shape=(8, 5))
    assert count_flops(full).dense == 8 * (5 * 6 + 6 * 6)
    assert count_flops(full, convention="rigl").dense == 8 * 6 * (2 * 11 + 1)
    low = sequential(FastGRNN(6, input_rank=2, recurrent_rank=3), shape=(8, 5))
    assert count_flops(low).dense == 8 * (2 * (5 + 6) + 3 * (6 + 6))
    gains = sequential(FastGRNN(6, input_rank=2, gains=True), shape=(8, 5))
    assert count_flops(gains).dense == 8 * (2 * (5 + 1 + 6) + 6 * (6 + 1 + 6))
    for model in (full, low, gains):
        table = count_flops(model)
        assert table.sparse == table.dense and not table.not_counted


def test_a_fast_grnn_under_rigl_and_with_zeros():
    full = sequential(FastGRNN(6), shape=(8, 5))
    keep(full.layers[0].cell.kernel, 7)
    keep(full.layers[0].cell.recurrent_kernel, 9)
    assert count_flops(full).sparse == 8 * (7 + 9)
    # An intermediate vector of rank r has r outputs; input's and state's products are summed to 6 outputs.
    low = sequential(FastGRNN(6, input_rank=2, recurrent_rank=3), shape=(8, 5))
    assert count_flops(low, "rigl").dense == 2 * count_flops(low).dense + 8 * (2 + 3 + 6)
    # A gain is a product without sums.
    gains = sequential(FastGRNN(6, input_rank=2, gains=True), shape=(8, 5))
    assert count_flops(gains, "rigl").dense == 2 * count_flops(gains).dense + 8 * (2 + 6 + 6)


def test_a_cell_in_a_loop_of_the_users_own():
    class Loop(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell = kl.SimpleRNNCell(6)

        def call(self, inputs):
            state = keras.ops.zeros((keras.ops.shape(inputs)[0], 6))
            for step in range(3):
                _, [state] = self.cell(inputs[:, step], [state])
            return state

    assert count_flops(Loop(), input_shape=(3, 5)).dense == 3 * 6 * (5 + 6)


def test_ranks_that_soft_thresholds_close_cost_nothing():
    model = sequential(STRFastGRNN(6), shape=(8, 5))
    keep(model.layers[0].cell.kernel_gain, 2)
    keep(model.layers[0].cell.recurrent_gain, 3)
    table = count_flops(model)
    assert table.dense == 8 * (5 * (5 + 1 + 6) + 6 * (6 + 1 + 6))
    assert table.sparse == 8 * (2 * (5 + 1 + 6) + 3 * (6 + 1 + 6))
    folded = sequential(fold_rank(model.layers[0]), shape=(8, 5))
    assert count_flops(folded).dense == table.sparse - 8 * (2 + 3)


def test_time_distributed_and_bidirectional_layers_count_every_step():
    model = sequential(kl.TimeDistributed(kl.Dense(3)), kl.Bidirectional(kl.LSTM(2)), shape=(8, 5))
    assert count_flops(model).dense == 8 * 15 + 2 * 8 * 4 * 2 * (3 + 2)


def test_attention_counts_its_projections_and_its_products():
    query, value = kl.Input((6, 8)), kl.Input((5, 8))
    # With dropout JAX too allows values of another size than the keys.
    attention = kl.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1)
    model = keras.Model([query, value], attention(query, value))
    keep(attention.query_dense.kernel, 10)
    table = count_flops(model)
    products = row(table, attention.name)
    # 6 x 5 pairs of positions, 2 heads: 3 for a score, 4 for the weighted sum.
    assert (products.dense, products.sparse, products.params_dense) == (6 * 5 * 2 * (3 + 4),) * 2 + (0,)
    assert (row(table, "query").dense, row(table, "query").sparse) == (6 * 48, 6 * 10)
    assert row(table, "key").dense == 5 * 48
    assert row(table, "value").dense == 5 * 64
    assert row(table, "attention_output").dense == 6 * 64
    rigl = row(count_flops(model, "rigl"), attention.name)
    assert rigl.dense == 2 * 6 * (5 * (2 * 3 - 1) + 4 * (2 * 5 - 1))


def test_a_layer_called_twice_counts_twice_and_its_weights_once():
    shared = kl.Dense(4)
    inputs = kl.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    table = count_flops(model)
    assert (table.rows[0].calls, table.dense, table.params_dense) == (2, 32, 16)


class Block(keras.Model):
    """Subclassed: a nested model, a list of layers, one layer that is never called."""

    def __init__(self):
        super().__init__(name="block")
        self.stem = keras.Sequential([kl.Dense(6, name="in_stem")], name="stem")
        self.blocks = [kl.Dense(6, name=f"block_{i}") for i in range(2)]
        self.unused = kl.Dense(3, name="unused")
        self.unused.build((None, 6))

    def call(self, inputs):
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x) + block(x)
        return x


def test_subclassed_and_nested_models_count_what_they_call():
    model = Block()
    table = count_flops(model, input_shape=(5,))
    assert table.dense == 5 * 6 + 4 * 36
    assert row(table, "unused").note == "not called"
    # Built now, it knows its shape.
    assert count_flops(model).dense == table.dense


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.left, self.right = kl.Dense(3), kl.Dense(4)

    def call(self, inputs):
        return keras.ops.concatenate([self.left(inputs["a"]), self.right(inputs["b"])], axis=-1)


def test_models_of_several_inputs_take_several_shapes():
    assert count_flops(TwoInputs(), input_shape={"a": (5,), "b": (6,)}).dense == 15 + 24
    a, b = kl.Input((5,)), kl.Input((None,))
    model = keras.Model([a, b], [kl.Dense(3)(a), kl.UnitNormalization()(b)])
    assert count_flops(model, input_shape=[(5,), (6,)]).dense == 15


def test_a_single_layer_can_be_counted():
    assert count_flops(kl.Dense(3), input_shape=(7, 5)).dense == 7 * 15


def test_counting_leaves_the_model_as_it_was():
    model = sequential(kl.Dense(4), kl.BatchNormalization(), kl.Dropout(0.5), shape=(3,))
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    keys = [set(vars(layer)) for layer in model.layers]
    x = np.ones((2, 3), "float32")
    expected = keras.ops.convert_to_numpy(model(x))
    count_flops(model)
    assert [set(vars(layer)) for layer in model.layers] == keys
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x)), expected)


def test_the_wraps_are_removed_when_the_call_fails():
    class Broken(kl.Layer):
        def call(self, inputs):
            raise RuntimeError("no")

        def compute_output_shape(self, input_shape):
            return input_shape

    dense = kl.Dense(4)
    inputs = kl.Input((3,))
    model = keras.Model(inputs, Broken()(dense(inputs)))
    with pytest.raises(RuntimeError):
        count_flops(model)
    assert "call" not in vars(dense)


class Custom(kl.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(shape=(input_shape[-1], 2), name="table")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.table)


def test_an_unknown_kind_is_reported_not_dropped():
    table = count_flops(sequential(Custom(name="custom"), kl.Dense(3), shape=(4,)))
    assert [r.name.split("/")[-1] for r in table.not_counted] == ["custom"]
    assert table.dense == 6
    assert table.params_dense == 8 + 6
    assert "not counted" in str(table).splitlines()[-1]


def test_the_table_as_it_is_printed():
    parts = [Custom(name="custom"), kl.Dense(3000, name="wide"), kl.Dense(2, name="last")]
    model = keras.Sequential([kl.Input((4,)), *parts], name="net")
    keep(model.get_layer("wide").kernel, 1500)
    keep(model.get_layer("last").kernel, 6)
    header, rule, *lines = [line.rstrip() for line in str(count_flops(model)).splitlines()]
    assert header == (
        "layer       kind      calls  output       weights    non-zeros    dense    sparse    sparse/dense"
    )
    assert set(rule) == {"-", " "}
    assert lines == [
        "net/custom  Custom        1  (1, 2)             8            8",
        "net/wide    Dense         1  (1, 3000)      6,000        1,500    6,000     1,500          0.2500",
        "net/last    Dense         1  (1, 2)         6,000            6    6,000         6          0.0010",
        "total                                      12,008        1,514   12,000     1,506          0.1255",
        "",
        "layer",
        "----------  ---------------------------------------",
        "net/custom  not counted: Custom is not a known kind",
        "dense and sparse: multiply-accumulates for one example (convention 'mac')",
        "not counted, so missing in the totals: net/custom",
    ]


def test_the_notes_of_a_table_start_in_one_column():
    notes = ("short", "a longer note")
    rows = [FlopsRow("layer", "Dense", 1, (1, 2), 6, 6, 6, 6, note) for note in notes]
    lines = str(FlopsTable(rows, "mac")).splitlines()
    places = [line.index(note) for note in notes for line in lines if note in line]
    assert len(places) == 2 and places[0] == places[1]


def test_a_table_without_notes_has_no_column_for_them():
    _, rule, *_ = str(FlopsTable([FlopsRow("layer", "Dense", 1, (1, 2), 6, 6, 6, 6, "")], "mac")).splitlines()
    assert len(rule.split()) == 9


def test_a_model_without_operations():
    table = count_flops(sequential(kl.ReLU(), shape=(4,)))
    assert (table.dense, table.sparse, table.ratio, len(table)) == (0, 0, 1.0, 0)
    assert table.params_dense == table.params_nonzero == 0


def test_attentions_row_says_that_its_products_have_no_weights():
    layer, inputs = kl.MultiHeadAttention(2, 3), kl.Input((5, 4))
    rows = count_flops(keras.Model(inputs, layer(inputs, inputs))).rows
    assert [found.note for found in rows if found.note] and all(not found.note for found in rows if found.params_dense)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantised_layers_count_like_the_layers_they_were(mode):
    model = sequential(kl.Dense(8), kl.EinsumDense("ab,bc->ac", 6), shape=(16,))
    before = count_flops(model)
    for layer in model.layers:
        layer.quantize(mode)
    after = count_flops(model)
    assert (after.dense, after.params_dense, after.not_counted) == (before.dense, 16 * 8 + 8 * 6, [])


def test_a_known_kind_that_keeps_its_kernel_elsewhere_is_reported():
    class Packed(kl.Dense):
        def build(self, input_shape):
            self.packed = self.add_weight(shape=(input_shape[-1], self.units), name="packed", trainable=False)
            self.built = True

        def call(self, inputs):
            return keras.ops.matmul(inputs, self.packed)

    table = count_flops(sequential(Packed(3, name="packed_dense"), shape=(4,)))
    assert table.dense == 0
    assert [r.name.split("/")[-1] for r in table.not_counted] == ["packed_dense"]


def test_an_unknown_recurrent_cell_is_reported():
    class Cell(kl.Layer):
        state_size = 3
        output_size = 3

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = kl.Dense(3, name="inner")

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, inputs, states):
            outputs = self.dense(inputs) + states[0]
            return outputs, [outputs]

    table = count_flops(sequential(kl.RNN(Cell()), shape=(8, 5)))
    assert table.dense == 0
    assert [r.name.split("/")[-1] for r in table.not_counted] == ["inner"]


def test_weights_that_are_not_finite_have_no_sparse_count():
    model = sequential(kl.Dense(3, name="a"), shape=(4,))
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    table = count_flops(model)
    assert table.dense == 12
    assert np.isnan(table.sparse)
    assert "non-finite" in str(table)


def test_unknown_conventions_and_shapes_are_refused():
    model = sequential(kl.Dense(3), shape=(4,))
    with pytest.raises(ValueError, match="`convention` must be one of"):
        count_flops(model, convention="flop")
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        count_flops(Block())
    image = kl.Input((None, None, 3))
    model = keras.Model(image, kl.Conv2D(2, 3)(image))
    with pytest.raises(ValueError, match="every dimension"):
        count_flops(model)
    with pytest.raises(ValueError, match="`input_shape` must be"):
        count_flops(model, input_shape="224")
    with pytest.raises(ValueError, match=r"without the batch's: \(None, None, 3\).*Received.*\(1, 5, 5, 3\)"):
        count_flops(model, input_shape=(1, 5, 5, 3))
    assert count_flops(model, input_shape=(5, 5, 3)).dense == 9 * 54


def test_sparse_layers_count_the_entries_of_their_masks():
    model = sequential(MaskedConv2D(4, 3, name="conv"), kl.Flatten(), MaskedDense(5, name="dense"), shape=(6, 6, 2))
    rng = np.random.default_rng(0)
    live = {}
    for layer in (model.layers[0], model.layers[2]):
        weight = layer.sparse_weights[0]
        weight.assign_mask(rng.random(weight.shape) < 0.3)
        live[layer.name] = weight.count()
    table = count_flops(model)
    assert table.sparse == 16 * live["conv"] + live["dense"]
    assert table.dense == 16 * 72 + 320
    assert table.ratio == table.sparse / table.dense


@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str", "dnw"])
def test_sparsifying_a_model_does_not_change_its_dense_operations(technique):
    tokens = kl.Input((6,), dtype="int32")
    x = kl.Embedding(11, 8)(tokens)
    x = kl.MultiHeadAttention(2, 4)(x, x)
    x = keras.Sequential([kl.Conv1D(8, 3), kl.Dense(8)])(x)
    model = keras.Model(tokens, kl.Dense(3)(kl.GlobalAveragePooling1D()(x)))
    before = count_flops(model)
    after = count_flops(sparsify(model, technique))
    assert (after.dense, after.params_dense) == (before.dense, before.params_dense)
    assert after.not_counted == []
    # Products of queries and keys, and the pooling, stay dense.
    assert after.sparse <= after.dense
    if technique == "dnw":
        assert after.sparse < 0.5 * after.dense


# Published counts.


def resnet50(stem_of_rigl=False):
    """ResNet-50 "v1.5" (stride in the 3 x 3 convolution), explicit padding as in PyTorch.

    `stem_of_rigl`: RigL's count takes the stem for a "same" convolution of the padded 230 x 230
    image.
    """

    def conv(x, filters, size, stride=1):
        if size > 1:
            x = kl.ZeroPadding2D(size // 2)(x)
        return kl.Conv2D(filters, size, strides=stride, use_bias=False, kernel_initializer="ones")(x)

    inputs = kl.Input((224, 224, 3))
    if stem_of_rigl:
        x = kl.ZeroPadding2D(3)(inputs)
        x = kl.Conv2D(64, 7, strides=2, padding="same", use_bias=False, kernel_initializer="ones")(x)
        x = kl.Cropping2D(((1, 2), (1, 2)))(x)
    else:
        x = conv(inputs, 64, 7, 2)
    x = kl.MaxPooling2D(3, 2)(kl.ZeroPadding2D(1)(x))
    for stage, (planes, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if block else conv(x, 4 * planes, 1, stride)
            x = conv(conv(conv(x, planes, 1), planes, 3, stride), 4 * planes, 1)
            x = kl.Add()([x, shortcut])
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kl.Dense(1000, use_bias=False, kernel_initializer="ones")(x))


def test_resnet50_has_the_operations_of_the_str_budget_table():
    table = count_flops(resnet50())
    # 54 layers and the pooling; `STR_Budgets_ResNet50.csv`, row "Overall".
    assert len(table) == 55
    assert table.dense == table.sparse == 4_089_184_256 + 100_352
    assert table.params_dense == 25_502_912


def test_resnet50_has_the_operations_that_rigl_states():
    table = count_flops(resnet50(stem_of_rigl=True), convention="rigl")
    assert round(table.dense / 1e9, 4) == 8.2023
    assert table.params_dense == 25_502_912


def prune_uniformly(model, rate, dense_stem):
    """Zeros floor(rate x size) weights of every layer."""
    layers = [layer for layer in model.layers if isinstance(layer, (kl.Conv2D, kl.Dense))]
    for layer in layers[dense_stem:]:
        size = int(np.prod(layer.kernel.shape))
        keep(layer.kernel, size - int(rate * size))


def test_uniformly_sparse_resnet50_has_the_published_operations():
    model = resnet50()
    prune_uniformly(model, 0.9, dense_stem=False)
    table = count_flops(model)
    # The row "Uniform" of the STR comparison (also GMP and DNW).
    assert table.params_nonzero == 2_550_318
    assert round(table.sparse / 1e6, 2) == 409.05

    model = resnet50(stem_of_rigl=True)
    prune_uniformly(model, 0.9, dense_stem=True)
    # RigL's table of results: 0.13x for 90 % uniform sparsity.
    assert round(count_flops(model, convention="rigl").ratio, 4) == 0.1285


@pytest.mark.parametrize(
    "name,operations,weights",
    [
        # Keras has version 1: the stride in the first 1 x 1 convolution. It takes seconds to build.
        pytest.param("ResNet50", 3_857_973_248 + 100_352, 25_502_912, marks=pytest.mark.slow),
        ("MobileNet", 568_740_352 + 50_176, 4_209_088),
    ],
)
def test_keras_resnet50_and_mobilenet_have_their_published_operations(name, operations, weights):
    table = count_flops(getattr(keras.applications, name)(weights=None))
    assert (table.dense, table.params_dense) == (operations, weights)


def test_uniform_sparsity_gives_its_share_of_the_operations():
    model = sequential(kl.Conv2D(10, 3), kl.Flatten(), kl.Dense(20), shape=(8, 8, 2))
    for layer in (model.layers[0], model.layers[2]):
        keep(layer.kernel, int(np.prod(layer.kernel.shape)) // 10)
    assert count_flops(model).ratio == pytest.approx(0.1)


def test_products_of_the_transformers_attention_are_counted():
    query, memory = keras.Input((5, 8), name="query"), keras.Input((7, 8), name="memory")
    attended = DotProductAttention(2, name="attend")(query, memory, memory)
    table = count_flops(keras.Model([query, memory], attended))
    # Query x key and probabilities x value: 5 x 7 products of 8 numbers each.
    assert row(table, "attend").dense == 2 * 5 * 7 * 8


@pytest.mark.parametrize("shape, example", [((None,), r"\(128,\)"), ((None, 5), r"\(128, 5\)")])
def test_a_text_model_is_told_to_give_the_length_of_its_sequences(shape, example):
    model = keras.Sequential([kl.Input(shape), kl.Embedding(7, 4) if shape == (None,) else kl.Dense(4), kl.Dense(3)])
    with pytest.raises(ValueError, match=rf"input_shape={example} for sequences of length 128.*\(1, None"):
        count_flops(model)
    assert count_flops(model, input_shape=(10, *shape[1:])).dense == 10 * (12 if shape == (None,) else 20 + 12)
