"""Translates batches with a Transformer: one compiled function runs the encoder and the whole search."""

import functools

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import compiled_inference, tensor_of
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_array, check_bool, check_integer, check_model, check_number
from sparsity_tf.decoding import network, search


class Decoder(CallRepr):
    """Translates sentences, given as ids, with a model; the results are ids, too.

    The constructor computes the weights of inference (of each sparse weight, the value with exact zeros), once for all
    translations. After more training, make a new decoder. Each shape of the inputs has its own compiled function (by
    XLA, on TensorFlow and JAX), so pad the inputs to a few lengths.

    Args:
        model: Model that `models.Transformer` built, with any technique. A loaded model works, too.
        cached: Whether keys and values of earlier positions are kept. `False` calls the model itself on the whole
            target at every step. This is slow; it is the reference for testing the cache.

    Raises:
        ValueError: `model` is another kind of model.

    Example:

    >>> transformer = sparsity_tf.models.Transformer(50, num_layers=1, hidden_size=8, filter_size=16, num_heads=2)
    >>> decoder = Decoder(transformer)
    >>> found = decoder.beam_search(np.array([[5, 7, 1]]), beam_size=2, extra_length=4)
    >>> found.sequences.shape
    (1, 1, 7)
    """

    def __init__(self, model: keras.Model, cached: bool = True) -> None:
        check_model("model", model)
        check_bool("cached", cached)
        self._weights = keras.tree.map_structure(tensor_of, network.inference_weights(model))
        self._model = None if cached else model
        self._heads = network.num_heads(model)
        self._compiled = functools.cache(self._compile)

    @property
    def vocabulary_size(self) -> int:
        """Number of symbols of the model."""
        return self._weights["embedding"].shape[0]

    def beam_search(
        self,
        inputs: np.ndarray,
        beam_size: int = 4,
        alpha: float = 0.6,
        extra_length: int = 100,
        num_results: int = 1,
        end_id: int = 1,
    ) -> search.Hypotheses:
        """Translates by beam search, by the rules in `search.py`.

        Args:
            inputs: Integer array (batch, source length) of ids, each row ended by `end_id` and padded with 0.
            beam_size: Number of hypotheses.
            alpha: Exponent of the length penalty, at least 0. A larger value prefers longer outputs.
            extra_length: Largest number of tokens that an output may have more than its input. Both count the end
                symbol, but no padding.
            num_results: Number of hypotheses to return. If it is more than one, the search goes on until none of them
                can be displaced.
            end_id: The end symbol.

        Returns:
            `search.Hypotheses` of numpy arrays, `(batch, num_results, ...)`, best first.

        Raises:
            ValueError: `inputs` is not a non-empty integer matrix, or holds ids outside the vocabulary; a number is not
                allowed.
        """
        check_integer("beam_size", beam_size, 1)
        check_integer("num_results", num_results, 1, beam_size)
        check_number("alpha", alpha, least=0)
        options = (("beam_size", beam_size), ("alpha", float(alpha)), ("stop_early", num_results == 1))
        hypotheses = self._run(inputs, extra_length, end_id, options)
        return search.Hypotheses(*(array[:, :num_results] for array in hypotheses))

    def greedy(self, inputs: np.ndarray, extra_length: int = 100, end_id: int = 1) -> search.Hypotheses:
        """Translates by the most probable token at every position.

        Args: As for `beam_search`.

        Returns:
            `search.Hypotheses` of numpy arrays, `(batch, 1, ...)`; scores are log P.
        """
        return self._run(inputs, extra_length, end_id, None)

    def _run(self, inputs, extra_length, end_id, options):
        check_array("inputs", inputs)
        inputs = np.asarray(inputs)
        if inputs.ndim != 2 or not inputs.size or not np.issubdtype(inputs.dtype, np.integer):
            raise ValueError(
                "`inputs` must be integers of shape (batch, source length), both at least 1. Received: "
                f"shape={inputs.shape}, dtype={inputs.dtype}"
            )
        if inputs.min() < 0 or inputs.max() >= self.vocabulary_size:
            raise ValueError(
                f"`inputs` must be ids below the model's vocabulary size, {self.vocabulary_size}. "
                f"Received: ids from {inputs.min()} to {inputs.max()}"
            )
        check_integer("extra_length", extra_length, 0)
        check_integer("end_id", end_id, 0, self.vocabulary_size - 1)
        lengths = (inputs != 0).cumsum(axis=1).argmax(axis=1) + 1
        function = self._compiled(inputs.shape[1] + extra_length, end_id, options)
        limits = (lengths + extra_length).astype("int32")
        results = function(
            self._weights, ops.convert_to_tensor(inputs, dtype="int32"), ops.convert_to_tensor(limits, dtype="int32")
        )
        return search.Hypotheses(*(ops.convert_to_numpy(tensor) for tensor in results))

    def _compile(self, length, end_id, options):
        def decode(weights, inputs, limits):
            beams = dict(options)["beam_size"] if options else 1
            if self._model is None:
                next_logits, cache = self._with_cache(weights, inputs, beams, length)
            else:
                next_logits, cache = self._without_cache(inputs, beams), ()
            if options is None:
                return tuple(search.greedy_search(next_logits, cache, limits, length, end_id))
            return tuple(search.beam_search(next_logits, cache, limits, length, end_id=end_id, **dict(options)))

        return compiled_inference(decode)

    def _with_cache(self, weights, inputs, beams, length):
        source, target = network.start_cache(weights, inputs, self._heads, beams, length)

        def next_logits(target, tokens, ancestors, sequences, step):
            return network.next_logits(weights, source, target, tokens, ancestors, step, self._heads)

        return next_logits, target

    def _without_cache(self, inputs, beams):
        batch, length = inputs.shape
        sources = ops.repeat(inputs, beams, axis=0)

        def next_logits(cache, tokens, ancestors, sequences, step):
            targets = ops.reshape(sequences, (batch * beams, sequences.shape[2]))
            logits = self._model(self._features(sources, targets), training=False)[:, step]
            return ops.reshape(logits, (batch, beams, logits.shape[-1])), cache

        return next_logits

    def _features(self, inputs, targets):
        features = {"inputs": inputs, "targets": targets}
        if "inputs_segments" in {tensor.name for tensor in self._model.inputs}:
            for side, ids in (("inputs", inputs), ("targets", targets)):
                # All positions of the target count as its one sentence: later ones are still padding, but causality
                # hides them.
                segments = ops.not_equal(ids, 0) if side == "inputs" else ops.ones_like(ids)
                features[f"{side}_segments"] = ops.cast(segments, "int32")
                positions = ops.arange(ids.shape[1], dtype="int32")
                features[f"{side}_positions"] = ops.broadcast_to(positions, ids.shape)
        return features
