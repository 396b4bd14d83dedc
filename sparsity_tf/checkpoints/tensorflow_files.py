"""Reads TensorFlow checkpoints as named tensors: V1 and V2, name-based and object-based, SavedModel.

This module needs TensorFlow. In a name-based checkpoint (TensorFlow 1) a tensor has the variable's name.
An object-based one (`tf.train.Checkpoint`, SavedModel) stores a graph of Python objects. There the key of a
tensor is a path of attributes, which may tell little ("variables/6"), and the graph holds the variable's own
name. The reader offers both as names, without the suffix "/.ATTRIBUTES/VARIABLE_VALUE".
"""

import collections
import glob
import math
import os
import re

import numpy as np

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from sparsity_tf.extras import import_optional

tf = import_optional("tensorflow")

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT_NAME = re.compile(
    r"/(Adam|AdamW|LazyAdam|Adamax|Adagrad|AdagradDA|Adadelta|Momentum|RMSProp|Ftrl|LARS"
    r"|Adafactor|ExponentialMovingAverage)(_\d+)?$"
)


class TensorFlowCheckpoint(Checkpoint):
    """The variables of a TensorFlow checkpoint.

    Args:
        path: str, the path that the user gave; used in messages.
        reader: A `tf.train.CheckpointReader`.
    """

    def __init__(self, path, reader):
        super().__init__(path)
        self._reader = reader
        types = reader.get_variable_to_dtype_map()
        self._types = {
            key: types[key]
            for key in reader.get_variable_to_shape_map()
            if types[key].is_floating or types[key].is_integer or types[key].is_bool
        }
        self._shapes = reader.get_variable_to_shape_map()
        self._keys = {}
        if _OBJECT_GRAPH in self._shapes:
            self._name_objects(reader.get_tensor(_OBJECT_GRAPH))
        else:
            slots = _slots_by_name(self._types)
            for key in self._types:
                if key not in slots:
                    self._keys[key] = key
                    self._register(key, (key,))

    def _name_objects(self, serialized):
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.ParseFromString(serialized)
        slots = _slot_nodes(graph)
        own_names = {}  # key -> the variable's own name, "" if it has none
        for i, node in enumerate(graph.nodes):
            for attribute in node.attributes:
                if attribute.checkpoint_key in self._types and i not in slots:
                    own_names[attribute.checkpoint_key] = attribute.full_name
        own_names = _without_second_copy(own_names)
        counts = collections.Counter(own_names.values())
        paths = {key: key.removesuffix(_SUFFIX) for key in own_names}
        for key, own_name in own_names.items():
            # TensorFlow names a variable "Variable" if its author gave it no name.
            unique = counts[own_name] == 1 and not re.fullmatch(r"(Variable(_\d+)?)?", own_name)
            name = own_name if unique and own_name not in paths.values() else paths[key]
            self._keys[name] = key
            self._register(name, (paths[key], own_name) if own_name else (paths[key],))

    def _shape(self, name):
        return tuple(self._shapes[self._keys[name]])

    def _is_floating(self, name):
        return self._types[self._keys[name]].is_floating

    def _read(self, name):
        return self._reader.get_tensor(self._keys[name])


def open_tensorflow(prefix, path):
    """Opens the TensorFlow checkpoint with this prefix. See `open_checkpoint`.

    Args:
        prefix: str, path without `.index`, or a V1 file.
        path: str, the path that the user gave; used in messages.

    Returns:
        A `TensorFlowCheckpoint`.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or a data file is missing or too short.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        if os.path.isfile(prefix + ".index"):
            _check_data_files(prefix, path, reader)
        return TensorFlowCheckpoint(path, reader)
    except CheckpointError:
        raise
    except Exception as error:  # TensorFlow raises its own errors, ValueError and RuntimeError
        ending = os.path.splitext(path)[1]
        kind = f", and a {ending} file is none" if ending in (".tflite", ".onnx", ".pb", ".xml") else ""
        raise CheckpointError(
            f"'{path}' is not a readable TensorFlow checkpoint (damaged or cut off?){kind}: {one_line(error)}"
        ) from error


def _check_data_files(prefix, path, reader):
    """Refuses data files that are too short for the tensors of the index.

    Data files hold the tensors uncompressed, so their smallest possible size is known without reading them. This check
    finds two faults that reading would not find in time: a file that is cut off inside an optimizer slot (slots are
    never read), and a false shape, for which TensorFlow would fill the memory.
    """
    files = glob.glob(glob.escape(prefix) + ".data-?????-of-?????")
    for total in {int(file[-5:]) for file in files}:
        if len([file for file in files if int(file[-5:]) == total]) == total:
            break
    else:
        raise CheckpointError(f"Checkpoint '{path}' lacks data files. Found: {sorted(files)}")
    present = sum(os.path.getsize(file) for file in files)
    # The first round counts one byte for each string. Only if the files are large enough for that, the second round
    # reads the strings to know their lengths.
    for read_strings in (False, True):
        needed = _stored_bytes(reader, read_strings)
        if present < needed:
            raise CheckpointError(
                f"Checkpoint '{path}' is cut off: its tensors need {needed} bytes, its data files have {present}"
            )


def _stored_bytes(reader, read_strings):
    """The bytes that all tensors take on disk, slots included. For strings that are not read, a lower bound."""
    types, total = reader.get_variable_to_dtype_map(), 0
    for key, shape in reader.get_variable_to_shape_map().items():
        if types[key] != tf.string:
            total += types[key].size * math.prod(shape)
        elif read_strings:
            # A variable-length integer (7 bits a byte) for each length, a checksum, the bytes.
            lengths = [len(text) for text in np.ravel(reader.get_tensor(key))]
            total += 4 + sum(n + max(1, -(-n.bit_length() // 7)) for n in lengths)
        else:
            total += math.prod(shape)
    return total


def _slots_by_name(names):
    """The names of TensorFlow 1's optimizer slots: "<variable>/Adam", "training/<variable>/Adam", ..."""
    slots = set()
    for name in names:
        parts = name.split("/")
        beneath_variable = any("/".join(parts[:end]) in names for end in range(1, len(parts)))
        if beneath_variable or _SLOT_NAME.search(name):
            slots.add(name)
    return slots


def _slot_nodes(graph):
    """Nodes of the object graph that belong to optimizers of TensorFlow or of Keras 3."""
    slots = set()
    for node in graph.nodes:
        slots.update(slot.slot_variable_node_id for slot in node.slot_variables)
        children = {child.local_name: child.node_id for child in node.children}
        if {"_iterations", "_variables"} <= set(children):
            # The optimizer also refers to the model's weights, which are not slots.
            trained = children.pop("_trainable_variables", None)
            slots |= _descendants(graph, children.values()) - _descendants(graph, [trained])
    return slots


def _descendants(graph, roots):
    pending, seen = [root for root in roots if root is not None], set()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending.extend(child.node_id for child in graph.nodes[node].children)
    return seen


def _without_second_copy(own_names):
    """Removes the second copy of each variable: Keras's `model.export` writes one more into `_all_variables`."""
    copies = {key: name for key, name in own_names.items() if key.startswith("_all_variables/")}
    others = {key: name for key, name in own_names.items() if key not in copies}
    missing = collections.Counter(copies.values()) - collections.Counter(others.values())
    return own_names if missing else others
