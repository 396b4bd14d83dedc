"""The chain with the rest of Keras: distillation + pruning, fine-tuning with masks held, shrinking, int8, LiteRT."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf import callbacks
from tests.deploy.models import widths

pytestmark = pytest.mark.compiled


def images(size, seed):
    """Four classes of 8 x 8 images: a bright square in one of the corners, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size)
    x = rng.normal(scale=0.5, size=(size, 8, 8, 1)).astype("float32")
    for image, label in zip(x, labels, strict=True):
        image[4 * (label // 2) + 1 : 4 * (label // 2) + 3, 4 * (label % 2) + 1 : 4 * (label % 2) + 3] += 2
    return x, labels


def convnet(width):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(width, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(width, 3, padding="same", activation="relu", name="second"),
            layers.Flatten(),
            layers.Dense(4, name="classes"),
        ]
    )


def compiled(model, rate=0.01):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def accuracy(model, data):
    return np.mean(np.argmax(model.predict(data[0], verbose=0), axis=1) == data[1])


class Student(keras.Model):
    """Learns from labels and from a teacher's logits, in a `train_step` of its own (any backend)."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        teacher.trainable = False

    def call(self, inputs, training=False):
        return self.student(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        soft = ops.softmax(self.teacher(x, training=False) / 2)
        distilled = ops.mean(keras.losses.categorical_crossentropy(soft, y_pred / 2, from_logits=True))
        return 0.5 * super().compute_loss(x, y, y_pred, sample_weight) + 0.5 * 4 * distilled


def distiller(student, teacher):
    return keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(temperature=2.0),
        student_loss_weight=0.5,
    )


def own_loop(student, teacher):
    model = Student(student, teacher)
    model.build((None, 8, 8, 1))
    return model


@pytest.mark.parametrize("learner", [distiller, pytest.param(own_loop, marks=pytest.mark.slow)])
def test_distilled_pruned_shrunk_and_quantized(learner, tmp_path):
    keras.utils.set_random_seed(1)
    train, test = images(512, 0), images(256, 1)
    teacher = compiled(convnet(16))
    teacher.fit(*train, batch_size=32, epochs=2, verbose=0)
    student = sparsity_tf.sparsify(convnet(8), "masked", structure="channel")
    pruning = callbacks.MagnitudePruning(target_parameters=0.4, begin_step=8, end_step=32, frequency=8)
    model = compiled(learner(student, teacher))
    before = [np.array(value) for value in teacher.get_weights()]
    model.fit(*train, batch_size=32, epochs=4, callbacks=[pruning], verbose=0)
    # Only the student is pruned. Masks hold in the steps after the last update.
    assert all(np.array_equal(one, two) for one, two in zip(before, teacher.get_weights(), strict=True))
    small = sparsity_tf.shrink(student)
    assert small.count_params() <= 0.4 * student.count_params()
    assert max(widths(small)["first"], widths(small)["second"]) < 8
    reached = accuracy(student, test)
    assert reached == accuracy(small, test) > 0.9
    small.quantize("int8")
    assert accuracy(small, test) > reached - 0.05


def test_fine_tuning_holds_the_masks_of_prune():
    keras.utils.set_random_seed(1)
    train, test = images(512, 0), images(256, 1)
    model = compiled(convnet(8))
    model.fit(*train, batch_size=32, epochs=2, verbose=0)
    dense = accuracy(model, test)
    sparsity_tf.prune(model, structure="channel", target_flops=0.4)
    sparsity_tf.refresh_statistics(model, train[0])
    shapes = widths(sparsity_tf.shrink(model))
    compiled(model).fit(*train, batch_size=32, epochs=2, verbose=0)
    small = sparsity_tf.shrink(model)
    assert widths(small) == shapes
    assert accuracy(small, test) > dense - 0.05


def test_keras_int8_keeps_the_zeros():
    model = sparsity_tf.prune(convnet(8), 0.75)
    plain = sparsity_tf.to_dense(model)
    zeros = np.array(plain.get_layer("classes").kernel) == 0
    plain.quantize("int8")
    np.testing.assert_array_equal(np.array(plain.get_layer("classes").kernel)[zeros], 0)


@pytest.mark.tensorflow
def test_int8_litert_of_a_shrunk_network(tmp_path):
    keras.utils.set_random_seed(1)
    train = images(512, 0)
    model = compiled(convnet(16))
    model.fit(*train, batch_size=32, epochs=2, verbose=0)
    sparsity_tf.prune(model, 0.5, structure="channel", by="magnitude")
    sparsity_tf.refresh_statistics(model, train[0])
    whole = sparsity_tf.export(sparsity_tf.to_dense(model), tmp_path / "whole.tflite", sparse=False)
    small = sparsity_tf.export(model, tmp_path / "small.tflite", shrink=True, quantize="int8", data=train[0][:64])
    assert small.parameters < 0.5 * whole.parameters and small.bytes < 0.5 * whole.bytes
