"""Sentences a second of cached beam search, compared with a search without a cache and with Hugging Face on PyTorch.

The network is the Transformer "base" with random weights; the beam is 4. No arm can reach the end symbol, so that all
sentences get the same number of tokens. The arms take turns, round after round. A ratio is the median over rounds of
(other / ours), both for the wall clock and for the processor time of the process, which other work on the machine
disturbs less.

A search without a cache calls the model on the whole target at every step. It is measured in two forms: the model as it
is ("model"; logits of all positions), and a model that computes only the last position's logits ("last logits"), which
is the least work that a search without a cache can do. Both run in one loop that XLA compiles, as ours does.

    python benchmarks/decoding.py [--rounds=3] [--length=64] [--batch=8] [--marian=ENV/bin/python]

`--marian` is the interpreter of an environment with `torch` and `transformers`, which this package does not need:
`python -m venv ENV; ENV/bin/pip install torch transformers`. Without `--marian`, Hugging Face is left out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json
import pathlib
import statistics
import subprocess
import time

import keras
import numpy as np
from absl import app, flags
from keras import ops
from tabulate import tabulate

from sparsity_tf import models
from sparsity_tf.decoding import Decoder, network
from sparsity_tf.models.transformer_layers import scale_tokens, timing_signal

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 3, "Rounds; every arm runs once in each.", lower_bound=1)
flags.DEFINE_integer("batch", 8, "Sentences.", lower_bound=1)
flags.DEFINE_integer("source", 16, "Tokens of a source.", lower_bound=1)
flags.DEFINE_integer("length", 64, "Tokens of a translation.", lower_bound=1)
flags.DEFINE_integer("beams", 4, "Hypotheses.", lower_bound=1)
flags.DEFINE_integer("vocabulary", 33288, "Symbols.", lower_bound=10)
flags.DEFINE_enum("size", "base", list(models.TRANSFORMER_SIZES), "Size of the model.")
flags.DEFINE_bool("uncached", True, "Compare with searches without a cache.")
flags.DEFINE_bool("whole_model", False, "Also without leaving out logits: slow, and takes gigabytes.")
flags.DEFINE_string("marian", None, "Python of an environment with torch and transformers.")

NEVER = -1  # An id that no token has.


class LastLogits(Decoder):
    """A search that runs the model on the whole target at every step, but computes only the logits that it needs."""

    def _with_cache(self, weights, inputs, beams, length):
        encoded = network.encode(weights, inputs, self._heads)
        encoded = ops.repeat(encoded, beams, axis=0)
        mask = ops.repeat(ops.not_equal(inputs, 0), beams, axis=0)[:, None, None, :]
        batch = inputs.shape[0]
        causal = np.tril(np.ones((length, length), bool))[None, None]
        keys_of = network._key_columns

        def next_logits(cache, tokens, ancestors, sequences, step):
            ids = ops.reshape(sequences, (batch * beams, length))
            x = scale_tokens(ops.take(weights["embedding"], ids, axis=0), ids)
            x = ops.pad(x[:, :-1], [(0, 0), (1, 0), (0, 0)])
            x = x + timing_signal(ops.arange(length), x.shape[-1])
            for block in weights["decoder"]:
                own = block["self"]
                joint = ops.matmul(network._normalize(x, own["norm"]), own["query_key_value"])
                query, key, value = ops.split(joint, 3, axis=-1)
                rows = [network._rows(part, self._heads) for part in (query, value)]
                x = x + network._attend(rows[0], keys_of(key, self._heads), rows[1], causal, own["output"])
                cross = block["cross"]
                query = ops.matmul(network._normalize(x, cross["norm"]), cross["query"])
                key, value = ops.split(ops.matmul(encoded, cross["key_value"]), 2, axis=-1)
                rows = [network._rows(part, self._heads) for part in (query, value)]
                x = x + network._attend(rows[0], keys_of(key, self._heads), rows[1], mask, cross["output"])
                x = network._feed_forward(x, block["ffn"])
            last = ops.take(x, step, axis=1)
            logits = ops.matmul(network._normalize(last, weights["decoder_norm"]), weights["softmax"])
            return ops.reshape(logits, (batch, beams, logits.shape[-1])), cache

        return next_logits, ()


class Ours:
    """An arm that runs this package's search."""

    def __init__(self, decoder, inputs):
        self.decoder, self.inputs = decoder, inputs
        begin = time.perf_counter()
        self.found = self.run()
        self.first = time.perf_counter() - begin

    def run(self):
        # The search never finds the end symbol, so the limit on the length stops it.
        extra = FLAGS.length - FLAGS.source
        return self.decoder.beam_search(self.inputs, FLAGS.beams, extra_length=extra, end_id=NEVER)

    def seconds(self):
        begin, processor = time.perf_counter(), time.process_time()
        self.run()
        return {"wall": time.perf_counter() - begin, "processor": time.process_time() - processor}


class Marian:
    """An arm that runs Hugging Face in a process of its own, which waits while other arms run."""

    def __init__(self, threads):
        script = pathlib.Path(__file__).with_name("_marian.py")
        sizes = models.TRANSFORMER_SIZES[FLAGS.size]
        numbers = {
            "layers": sizes["num_layers"],
            "hidden": sizes["hidden_size"],
            "filter": sizes["filter_size"],
            "heads": sizes["num_heads"],
            "threads": threads,
            **{name: FLAGS[name].value for name in ("vocabulary", "batch", "source", "length", "beams")},
        }
        command = [FLAGS.marian, str(script), *(f"--{name}={number}" for name, number in numbers.items())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.process.stdout.readline())

    def seconds(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def main(_):
    if FLAGS.length < FLAGS.source:
        raise app.UsageError("--length must be at least --source")
    keras.utils.set_random_seed(0)
    model = models.Transformer(FLAGS.vocabulary, size=FLAGS.size)
    inputs = np.random.default_rng(0).integers(2, FLAGS.vocabulary, (FLAGS.batch, FLAGS.source))
    inputs[:, -1] = 1
    arms = {"cached": Ours(Decoder(model), inputs)}
    if FLAGS.uncached:
        arms["uncached, last logits"] = Ours(LastLogits(model), inputs)
    if FLAGS.whole_model:
        arms["uncached, model"] = Ours(Decoder(model, cached=False), inputs)
    for name, arm in arms.items():
        same = np.mean(arm.found.sequences == arms["cached"].found.sequences)
        print(f"{name}: first call, compilation included, {arm.first:.1f} s; {100 * same:.1f} % of the same tokens")
    if FLAGS.marian:
        # On a busy machine, one thread can be faster than several threads that wait for each other.
        for threads in sorted({1, os.cpu_count()}):
            name = f"Hugging Face MarianMT, {threads} threads"
            arms[name] = Marian(threads)
            print(f"{name}: {arms[name].about}", flush=True)
    times = {name: [] for name in arms}
    for _ in range(FLAGS.rounds):
        for name, arm in arms.items():
            times[name].append(arm.seconds())
    rows = []
    for name, found in times.items():
        ratios = [
            statistics.median(a[clock] / b[clock] for a, b in zip(found, times["cached"], strict=True))
            for clock in ("wall", "processor")
        ]
        wall = statistics.median(seconds["wall"] for seconds in found)
        goal = {"cached": "", "uncached": "10"}.get(name.partition(",")[0], "over 1")
        rows.append([name, f"{FLAGS.batch / wall:.2f}", f"{ratios[0]:.2f}", f"{ratios[1]:.2f}", goal])
    print(
        f"\nTransformer {FLAGS.size}, {FLAGS.vocabulary} symbols, batch {FLAGS.batch}, source {FLAGS.source}, "
        f"{FLAGS.length} tokens, beam {FLAGS.beams}, {FLAGS.rounds} rounds, {os.cpu_count()} cores"
    )
    headers = ["arm", "sentences/s", "time / cached, wall", "processor", "goal"]
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)


if __name__ == "__main__":
    app.run(main)
