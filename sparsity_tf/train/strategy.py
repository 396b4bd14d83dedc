"""Makes the `tf.distribute` strategy of a run from its name in a recipe."""

import contextlib
import json
import os

from sparsity_tf.backend import (
    backend_name,
    build_for_data,
    build_in_fit_no_more,
    has_data_parallelism,
    has_strategies,
    use_all_devices,
)


class SingleDevice:
    """Takes the place of TensorFlow's default strategy on other backends. It has one replica."""

    num_replicas_in_sync = 1
    cluster_resolver = None

    def scope(self):
        return contextlib.nullcontext()


class DataParallel(SingleDevice):
    """Splits each batch over the devices that JAX sees, by `keras.distribution`. Keras itself divides the batches."""

    def __init__(self):
        self.num_replicas_in_sync = use_all_devices()


def get_strategy(name):
    """Makes a strategy. Call it before any other work of TensorFlow, because a strategy of several workers needs that.

    Args:
        name: `"none"`: one device. `"mirrored"`: all GPUs of this machine, or all its logical CPUs if it has no GPU.
            `"multiworker"`: the workers that the environment variable `TF_CONFIG` names. Each is started with the same
            command, and all must share the file system of `output_dir`. `"tpu"`: the TPU that TensorFlow finds.
            `"data_parallel"`: all devices that JAX sees.

    Returns:
        A `tf.distribute.Strategy`. `"none"` gives TensorFlow's default one, or `SingleDevice` on another backend.

    Raises:
        ValueError: `TF_CONFIG` is missing or describes no cluster, there is no TPU, or the backend does not have the
            strategy.
    """
    if name == "data_parallel":
        if not has_data_parallelism():
            raise ValueError(
                f"`strategy=data_parallel` needs Keras's jax backend; on TensorFlow use mirrored. Received: the "
                f"{backend_name()} backend"
            )
        return DataParallel()
    if not has_strategies():
        if name != "none":
            others = "none or data_parallel" if has_data_parallelism() else "none"
            raise ValueError(
                f"`strategy` must be {others} on Keras's {backend_name()} backend: the others are TensorFlow's. "
                f"Received: strategy={name}"
            )
        return SingleDevice()
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
        raise ValueError(
            f"`strategy` must be one of none, mirrored, multiworker, tpu, data_parallel. Received: strategy={name}"
        )
    return tf.distribute.get_strategy()


def _check_tf_config():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        task = config["task"]
        hosts = config["cluster"][task.get("type", "worker")]
        known = isinstance(hosts, list) and 0 <= task["index"] < len(hosts)
    except (ValueError, KeyError, TypeError, AttributeError):
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
    except Exception as error:  # a missing TPU can raise many kinds of errors
        raise ValueError(f"`strategy=tpu` found no TPU ({error}).") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy):
    """Whether this process writes the run's files: it is the only process, the cluster's chief, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not getattr(resolver, "task_type", None):
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "worker" and not has_chief and (resolver.task_id or 0) == 0


def prepare_for_workers(model, example):
    """Makes `fit` work under several workers, by avoiding two faults of Keras 3.15 (tensorflow/tensorflow#72388).

    First, Keras reduces its first batch over the replicas to build metrics, which fails for a nested batch. This
    function therefore builds the metrics beforehand. Second, Keras averages the results of a step over their first
    axis, but the results are scalars. This function therefore gives them an axis.

    Args:
        model: Model compiled in the strategy's scope.
        example: A batch of arrays of the kind on which the model is trained.
    """
    import tensorflow as tf

    def with_axis(step):
        return lambda data: {name: tf.reshape(value, (1,)) for name, value in step(data).items()}

    with model.distribute_strategy.scope():
        build_for_data(model, example)
    build_in_fit_no_more(model)
    model.train_step, model.test_step = with_axis(model.train_step), with_axis(model.test_step)


def splits_data(strategy):
    """Whether a `tf.distribute` strategy divides data sets among replicas. (`DataParallel` divides batches itself.)"""
    return strategy.num_replicas_in_sync > 1 and not isinstance(strategy, SingleDevice)


def distribute(strategy, batches, first_step):
    """The training batches from a step on, for `fit` under the strategy. Each worker reads only its own part."""
    if not splits_data(strategy):
        return batches.train(first_step)
    return strategy.distribute_datasets_from_function(lambda context: batches.train(first_step, context))
