"""Deep rewiring, DEEP R (Bellec et al., ICLR 2018, arXiv 1711.05136): connections with fixed signs.

Every connection k has a sign s and a parameter theta >= 0; the weight is s theta. After each step of the optimizer the
live connections drift towards zero and get noise (learning rate eta, L1 coefficient alpha, temperature T):

    theta <- theta - eta alpha + sqrt(2 eta T) N(0, 1)

A connection whose theta is now negative becomes dormant, and as many dormant connections, drawn at random, become live
with theta = 0. So a live weight never changes its sign, and the number of live weights never changes.
"""

import math

import keras
import numpy as np

from sparsity_tf import masks, schedules
from sparsity_tf.backend import last_learning_rate
from sparsity_tf.callbacks.dynamic import SparseFromTheStart
from sparsity_tf.checks import check_number
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where

# The name under which the signs of a weight are saved with the model, before the name of the weight.
_SIGNS = "deep_rewiring_"


class DeepRewiring(SparseFromTheStart):
    """Deep rewiring (DEEP R): a weight that changes its sign is dropped, and a random weight is grown in its place.

    Each weight keeps its number of live entries: of n entries floor(s n) are zero, where s is the weight's own sparsity
    under `distribution`. All entries that are not live have the same chance to grow, those that were just dropped
    included. Grown entries start at zero, and so do their optimizer slots. An entry at exactly zero stays, until it
    moves to the wrong side.

    Every entry has a fixed sign. The sign of an entry that is not zero when training begins is the sign of its value.
    The sign of any other entry is random. Signs are saved with the model. The drift and the noise are those of one
    step, with the learning rate eta that the optimizer used in it. So leave `frequency` at 1, and
    `steps_per_execution`, too.

    The authors' program adds noise of the standard deviation eta * 1e-5. At their rate, 0.05, this is the default
    temperature. The comparison in DSR's paper (arXiv 1902.05967) has temperatures from 1e-5 down to 1e-15, which its
    program adds to the gradient: its noise has the standard deviation eta sqrt(2 eta T), not the paper's sqrt(2 eta T).

    The paper's variant with a prior on the number of live connections (soft-DEEP R), and a number of live connections
    that only the whole network keeps, are not here.

    Args:
        sparsity: Fraction of zeros, in [0, 1), over all weights together.
        l1: The L1 coefficient alpha, at least 0: in a step every live weight moves by eta * alpha towards zero.
        temperature: T, at least 0: a number, or a schedule or other function of the step.
        frequency: Steps between updates.
        distribution: How the sparsity is distributed over the weights: "uniform", "erk", a dict, a CSV file, ...
            (`sparsity_tf.distributions.allocate`).
        dense: Weights that stay dense: "first", "last", names (`sparsity_tf.distributions.allocate`).
        begin_step, end_step, where, seed: See `MaskAlgorithm`. Before `begin_step` and after `end_step` there is no
            drift, no noise and no rewiring. (The paper rewires to the end.)
        structure: Must be `None`: the algorithm moves single weights.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    rewiring = sparsity_tf.callbacks.DeepRewiring(sparsity=0.9, l1=1e-4)
    model.fit(x, y, callbacks=[rewiring])
    ```
    """

    grows = True

    def __init__(
        self,
        sparsity: float = 0.9,
        l1: float = 1e-5,
        temperature: NumberOrSchedule = 2.5e-12,
        frequency: Frequency = 1,
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            sparsity,
            distribution,
            dense,
            frequency,
            begin_step=begin_step,
            end_step=end_step,
            where=where,
            structure=structure,
            seed=seed,
        )
        check_number("l1", l1, least=0)
        if not callable(temperature) and not isinstance(temperature, dict):
            check_number("temperature", temperature, least=0)
        self.l1, self.temperature = l1, schedules.of_argument("temperature", temperature)

    def _forget_model(self):
        return {**super()._forget_model(), "_signs": {}}

    def start(self) -> None:
        self.temperature_at(self.begin_step)
        super().start()
        # Index of a weight -> int8 array of its shape: 1 or -1.
        self._signs = {index: self._signs_of(index) for index in self.moving}

    def _signs_of(self, index):
        weight, view = self.weights[index], self.view(index, step=0)
        states, name = weight.technique.states, f"{_SIGNS}{weight.name}"
        if name not in states or len(states[name]) != math.ceil(weight.size / 48):
            drawn = np.random.default_rng([self.seed, 0, index, 1]).random(weight.shape) < 0.5
            states[name] = _pack(np.where(view.value == 0, drawn, view.value > 0))
        positive = _unpack(states[name], weight.size).reshape(weight.shape)
        return np.where(positive, np.int8(1), np.int8(-1))

    def temperature_at(self, step: int) -> float:
        """The temperature T after a step: a float of at least 0."""
        value = float(self.temperature(step))
        check_number("temperature", value, least=0)
        return value

    def change_masks(self, step: int) -> None:
        rate = last_learning_rate(self._optimizer)
        drift, deviation = rate * self.l1, math.sqrt(2 * rate * self.temperature_at(step))
        for portion in self.portions(self.moving):
            self._rewire([(self.view(index, step), self._signs[index]) for index in portion], drift, deviation)

    def _rewire(self, pairs, drift, deviation):
        kept, grown = [], []
        for view, signs in pairs:
            sign = signs.reshape(-1)[view.live]
            theta = view.value.reshape(-1)[view.live] * sign
            if drift or deviation:
                move = (deviation * view.rng.standard_normal(sign.size) - drift).astype("float32")
                theta = theta + move
                self._write(view, theta * sign, move * sign)
            mask = view.mask.copy()
            # A comparison with NaN is false: a weight that diverged stays, and is seen.
            mask.reshape(-1)[view.live[theta < 0]] = False
            kept.append(mask)
            grown.append(masks.random_mask(mask.shape, view.active - int(np.count_nonzero(mask)), view.rng, ~mask))
        views = [view for view, _ in pairs]
        chosen = [mask | new for mask, new in zip(kept, grown, strict=True)]
        self.assign(views, chosen, kept=kept, cleared=grown)

    def _write(self, view, values, changes):
        """Writes the values of the live entries of a weight, of which `changes` are the changes."""
        variable, written = view._weight.variable, np.zeros(view.mask.size, "float32")
        # The values were read as float32. A wider variable would lose digits if they were written back.
        narrow = keras.backend.standardize_dtype(variable.dtype) != "float64"
        written[view.live] = values if narrow else changes
        written = written.reshape(view.mask.shape)
        variable.assign(written) if narrow else variable.assign_add(written)


def _pack(bits):
    """Packs a bool array into the form in which a layer keeps states, a float64 array: 48 bits in a number."""
    words = np.packbits(bits)
    words = np.pad(words, (0, -len(words) % 6)).reshape(-1, 6)
    return words.astype("float64") @ 256.0 ** np.arange(6)


def _unpack(numbers, size):
    """The inverse of `_pack`: a bool vector."""
    words = numbers.astype("uint64")[:, np.newaxis] >> np.arange(0, 48, 8, dtype="uint64")
    return np.unpackbits((words & np.uint64(255)).astype("uint8").reshape(-1), count=size).astype(bool)
