"""The `tf.distribute` strategy of a run, by its name in a recipe."""

import json
import os

import numpy as np


def get_strategy(name):
    """Makes a strategy; to be called before any other work of TensorFlow, which several workers demand.

    Args:
        name: `"none"`; `"mirrored"`, all GPUs of this machine, or all its logical CPUs if it has none; `"multiworker"`,
            the workers that the environment variable `TF_CONFIG` names, each started with the same command (they must
            share the file system of `output_dir`); `"tpu"`, the TPU that TensorFlow finds.

    Returns:
        A `tf.distribute.Strategy`; for `"none"` TensorFlow's default one.

    Raises:
        ValueError: `TF_CONFIG` is missing or no cluster, or there is no TPU.
    """
    import tensorflow as tf

    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy(tf)
    if name != "none":
        raise ValueError(f"`strategy` must be one of none, mirrored, multiworker, tpu. Received: strategy={name}")
    return tf.distribute.get_strategy()


def _check_tf_config():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        index = config["task"]["index"]
        known = isinstance(workers, list) and 0 <= index < len(workers)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(
            '`strategy=multiworker` needs TF_CONFIG, such as {"cluster": {"worker": ["host1:port", "host2:port"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: TF_CONFIG={text!r}'
        )


def _tpu_strategy(tf):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # the ways to have no TPU are many
        raise ValueError(f"`strategy=tpu` found no TPU ({error}).") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy):
    """Whether this process writes the run's files: the only worker, or the first of several."""
    resolver = strategy.cluster_resolver
    return resolver is None or not getattr(resolver, "task_type", None) or (resolver.task_id or 0) == 0


def prepare_for_workers(model, batches):
    """Makes `fit` work under several workers, for which Keras 3.15 has two faults (tensorflow/tensorflow#72388).

    It reduces its first batch over the replicas to build metrics, which a nested batch does not survive: they are built
    here. And it averages what a step returns over the first axis, which scalars do not have: here they get one.

    Args:
        model: Model compiled in the strategy's scope.
        batches: `datasets.Batches`.
    """
    import tensorflow as tf

    example = np.zeros((1, *batches.image_shape), batches.dtype), np.zeros((1,), "int32")
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=example)
    model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None
    step = model.train_step
    model.train_step = lambda data: {name: tf.reshape(value, (1,)) for name, value in step(data).items()}


def distribute(strategy, batches, first_step):
    """Training batches from a step on, for `fit` under the strategy: each worker reads its own part."""
    if strategy.num_replicas_in_sync == 1:
        return batches.train(first_step)
    return strategy.distribute_datasets_from_function(lambda context: batches.train(first_step, context))
