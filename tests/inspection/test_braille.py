"""Masks as text: every dot is where the entry is."""

import numpy as np
import pytest

import sparsity_tf
from sparsity_tf.inspection import mask_to_braille


def dots(text):
    """The definition, backwards: the array of dots that a picture shows."""
    places = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))  # of dots 1 to 8
    lines = text.split("\n")
    found = np.zeros((4 * len(lines), 2 * len(lines[0])), bool)
    for i, line in enumerate(lines):
        for j, character in enumerate(line):
            bits = ord(character) - 0x2800
            assert 0 <= bits < 256
            for bit, (row, column) in enumerate(places):
                found[4 * i + row, 2 * j + column] = bits >> bit & 1
    return found


def test_known_characters():
    assert mask_to_braille(np.ones((4, 2))) == "⣿"
    assert mask_to_braille(np.zeros((4, 4))) == "\u2800\u2800"
    assert mask_to_braille([[1, 0], [0, 0], [0, 0], [0, 1]]) == "⢁"
    assert mask_to_braille([True, False, True]) == "⠁⠁"


@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (5, 3), (17, 30)])
def test_each_dot_is_an_entry_and_nothing_is_beyond_the_edge(shape):
    mask = np.random.default_rng(0).random(shape) < 0.4
    picture = dots(mask_to_braille(mask))
    np.testing.assert_array_equal(picture[: shape[0], : shape[1]], mask)
    assert picture.sum() == mask.sum()


def test_other_axes_are_joined():
    mask = np.random.default_rng(0).random((3, 3, 6, 8)) < 0.1
    np.testing.assert_array_equal(dots(mask_to_braille(mask))[:6], mask.any(axis=(0, 1)))
    np.testing.assert_array_equal(dots(mask_to_braille(mask, axes=(3, 0)))[:8, :3], mask.any(axis=(1, 2)).T)


def test_a_wide_mask_becomes_coarser():
    mask = np.zeros((30, 100), bool)
    mask[29, 99] = mask[0, 0] = mask[0, 5] = True
    text = mask_to_braille(mask, width=10)  # Squares of 5 x 5.
    assert max(map(len, text.split("\n"))) == 10
    assert {tuple(place) for place in np.argwhere(dots(text))} == {(0, 0), (0, 1), (5, 19)}
    assert mask_to_braille(mask, width=50) == mask_to_braille(mask)


def test_the_mask_of_a_layer():
    layer = sparsity_tf.layers.MaskedDense(6)
    layer.build((None, 4))
    mask = np.tri(4, 6, dtype=bool)
    layer.sparse_weights[0].assign_mask(mask)
    np.testing.assert_array_equal(dots(mask_to_braille(layer.sparse_weights[0].mask())), mask)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("mask",), "`mask` must be an array of numbers"),
        ((3.0,), "`mask` must have entries, and `axes` must name two"),
        ((np.ones((0, 3)),), "`mask` must have entries"),
        ((np.ones((2, 3)), (0, 0)), "`axes` must name two of its axes"),
        ((np.ones((2, 3)), (0, 2)), r"`axes` must name .*axes=\(0, 2\)"),
        ((np.ones((2, 3)), (0, 1, 2)), "`axes` must be a tuple of 2 integers"),
        ((np.ones((2, 3)), (0, 1), 0), "`width` must be an integer of at least 1.*width=0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mask_to_braille(*arguments)
