"""Deep rewiring, DEEP R (Bellec et al., ICLR 2018, arXiv 1711.05136): connections with fixed signs.

Every connection k has a sign s and a parameter theta >= 0; the weight is s theta. After each step of the optimizer the
live connections drift towards zero and get noise (learning rate eta, L1 coefficient alpha, temperature T):

    theta <- theta - eta alpha + sqrt(2 eta T) N(0, 1)

A connection whose theta is now negative becomes dormant, and as many dormant connections, drawn at random, become live
with theta = 0. So a live weight never changes its sign, and the number of live weights never changes.

Soft-DEEP R has a prior on the number of live connections in the place of the fixed number. Dormant connections keep a
theta < 0, which gets the noise alone and never falls below

    theta_min = -(1 - p) T / (p alpha)

where p is the expected share of live connections. A connection lives while its theta is at least 0. Without a gradient,
theta has the density exp(-alpha theta / T) where it is positive, and a uniform one down to theta_min: hence p.
"""

import math

import keras
import numpy as np

from sparsity_tf import masks, schedules
from sparsity_tf.backend import last_learning_rate
from sparsity_tf.callbacks.dynamic import SparseFromTheStart
from sparsity_tf.checks import check_bool, check_number
from sparsity_tf.masks import packed_bits
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where

# The names under which the signs of a weight, and the thetas of its dormant entries, are saved with the model. The name
# of the weight follows.
_SIGNS = "deep_rewiring_"
_DORMANT = "soft_deep_rewiring_"


class DeepRewiring(SparseFromTheStart):
    """Deep rewiring (DEEP R): a weight that changes its sign is dropped, and a random weight is grown in its place.

    Each weight keeps its number of live entries: of n entries floor(s n) are zero, where s is the weight's own sparsity
    under `distribution`. All entries that are not live have the same chance to grow, those that were just dropped
    included. Grown entries start at zero, and so do their optimizer slots. An entry at exactly zero stays, until it
    moves to the wrong side.

    Every entry has a fixed sign. The sign of an entry that is not zero when training begins is the sign of its value.
    The sign of any other entry is random. Signs are saved with the model, and a later training has the same ones: an
    entry that has changed its sign in between is dropped. The drift and the noise are those of one step, with the
    learning rate eta that the optimizer used in it. So leave `frequency` at 1, and `steps_per_execution`, too.

    The authors' program adds noise of the standard deviation eta * 1e-5. At their rate, 0.05, this is the default
    temperature. The comparison in DSR's paper (arXiv 1902.05967) has temperatures from 1e-5 down to 1e-15, which its
    program adds to the gradient: its noise has the standard deviation eta sqrt(2 eta T), not the paper's sqrt(2 eta T).

    **Soft-DEEP R** (`soft=True`): the number of live entries is not fixed. `sparsity` is that of the initial masks and
    the expected one without a gradient (1 - p); the loss may move it far. Dormant entries have a theta of their own,
    which begins uniformly distributed between its lower bound and 0 (our choice) and is saved with the model: eight
    bytes an entry. An entry begins to live with the theta that it has walked to.

    A number of live connections that only the whole network keeps is not here.

    Args:
        sparsity: Fraction of zeros, in [0, 1), over all weights together. See above for `soft`.
        l1: The L1 coefficient alpha, at least 0: in a step every live weight moves by eta * alpha towards zero.
        temperature: T, at least 0: a number, or a schedule or other function of the step.
        soft: Whether a prior takes the place of the fixed number of live entries. Then `l1` and `temperature` must be
            above 0.
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
        soft: bool = False,
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
        check_bool("soft", soft)
        self.soft = bool(soft)
        check_number("l1", l1, **self._bound())
        if not callable(temperature) and not isinstance(temperature, dict):
            check_number("temperature", temperature, **self._bound())
        self.l1, self.temperature = l1, schedules.of_argument("temperature", temperature)

    def _bound(self):
        # Without drift the prior has no finite bound, and without noise dormant entries would all live at once.
        return {"above": 0} if self.soft else {"least": 0}

    def _forget_model(self):
        return {**super()._forget_model(), "_signs": {}}

    def start(self) -> None:
        self.temperature_at(self.begin_step)
        super().start()
        # Index of a weight -> int8 array of its shape: 1 or -1.
        self._signs = {index: self._signs_of(index) for index in self.moving}

    def _compare_masks(self, views, targets):
        # The prior of soft-DEEP R does not fix a number, so earlier masks may have any.
        if not self.soft:
            super()._compare_masks(views, targets)

    def _signs_of(self, index):
        weight, view = self.weights[index], self.view(index, step=0)
        states, name = weight.technique.states, f"{_SIGNS}{weight.name}"
        if name not in states or len(states[name]) != packed_bits.length(weight.size):
            drawn = np.random.default_rng([self.seed, 0, index, 1]).random(weight.shape) < 0.5
            states[name] = packed_bits.pack(np.where(view.value == 0, drawn, view.value > 0))
        positive = packed_bits.unpack(states[name], tuple(weight.shape))
        return np.where(positive, np.int8(1), np.int8(-1))

    def temperature_at(self, step: int) -> float:
        """The temperature T after a step: a float of at least 0, with `soft` above 0."""
        value = float(self.temperature(step))
        check_number("temperature", value, **self._bound())
        return value

    def lowest_theta(self, sparsity: float, step: int) -> float:
        """theta_min of dormant entries after a step, for a weight whose expected sparsity 1 - p is `sparsity`."""
        return -sparsity / (1 - sparsity) * self.temperature_at(step) / self.l1

    def change_masks(self, step: int) -> None:
        rate = last_learning_rate(self._optimizer)
        drift, deviation = rate * self.l1, math.sqrt(2 * rate * self.temperature_at(step))
        for portion in self.portions(self.moving):
            pairs = [(self.view(index, step), self._signs[index].reshape(-1)) for index in portion]
            if self.soft:
                self._walk(pairs, drift, deviation)
            else:
                self._rewire(pairs, drift, deviation)

    def _rewire(self, pairs, drift, deviation):
        kept, grown = [], []
        for view, signs in pairs:
            live, sign = view.live, signs[view.live]
            theta, move = _moved(view, sign, drift, deviation)
            if drift or deviation:
                _write(view._weight, live, theta * sign, move * sign)
            mask = view.mask.copy()
            # A comparison with NaN is false: a weight that diverged stays, and is seen.
            mask.reshape(-1)[live[theta < 0]] = False
            kept.append(mask)
            grown.append(masks.random_mask(mask.shape, view.active - int(np.count_nonzero(mask)), view.rng, ~mask))
        self._assign([view for view, _ in pairs], kept, grown)

    def _walk(self, pairs, drift, deviation):
        kept, grown, written = [], [], []
        for view, signs in pairs:
            live, sign = view.live, signs[view.live]
            theta, move = _moved(view, sign, drift, deviation)
            thetas = self._dormant(view)
            thetas += deviation * view.rng.standard_normal(thetas.size)
            thetas[live] = theta
            lowest = self.lowest_theta(self.targets[view.path], view.step)
            thetas = np.where(thetas < lowest, lowest, thetas)
            alive = ~(thetas < 0)  # As above: NaN lives, and is seen.
            before = view.mask.reshape(-1)
            kept.append((before & alive).reshape(view.mask.shape))
            grown.append((~before & alive).reshape(view.mask.shape))
            changes = thetas.copy()
            changes[live] = move
            positions = np.flatnonzero(alive)
            written.append([view._weight, positions, *(signs[positions] * a[positions] for a in (thetas, changes))])
            view._weight.technique.states[f"{_DORMANT}{view._weight.name}"] = np.where(alive, 0.0, thetas)
        self._assign([view for view, _ in pairs], kept, grown)
        # Entries that begin to live have been set to zero. Their values come afterwards.
        for arguments in written:
            _write(*arguments)

    def _assign(self, views, kept, grown):
        chosen = [mask | new for mask, new in zip(kept, grown, strict=True)]
        self.assign(views, chosen, kept=kept, cleared=grown)

    def _dormant(self, view):
        """A copy of the thetas of a weight's dormant entries, a float64 vector over all entries."""
        weight = view._weight
        saved = weight.technique.states.get(f"{_DORMANT}{weight.name}")
        thetas = np.zeros(weight.size) if saved is None or len(saved) != weight.size else np.array(saved)
        # Entries that have no theta: at the beginning, and if another algorithm has pruned them.
        new = ~view.mask.reshape(-1) & (thetas == 0)
        if new.any():
            index = [one.path for one in self.weights].index(view.path)
            share = np.random.default_rng([self.seed, 0, index, 2]).random(weight.size)
            thetas[new] = (1 - share[new]) * self.lowest_theta(self.targets[view.path], view.step)
        return thetas


def _moved(view, sign, drift, deviation):
    """The thetas of the live entries after drift and noise, and what these add: float32 vectors."""
    theta = view.value.reshape(-1)[view.live] * sign
    if not (drift or deviation):
        return theta, np.zeros_like(theta)
    move = (deviation * view.rng.standard_normal(sign.size) - drift).astype("float32")
    return theta + move, move


def _write(weight, positions, values, changes):
    """Writes the values of the live entries of a weight, at `positions`, of which `changes` are the changes."""
    variable, written = weight.variable, np.zeros(weight.size, "float32")
    # The values were read as float32. A wider variable would lose digits if they were written back.
    narrow = keras.backend.standardize_dtype(variable.dtype) != "float64"
    written[positions] = values if narrow else changes
    written = written.reshape(weight.shape)
    variable.assign(written) if narrow else variable.assign_add(written)
