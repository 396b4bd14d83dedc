"""Runs exported files in their own runtimes: `open_runtime`. Only this module knows how to run each format.

The packages are optional. If the runtime of a format is missing, an error says what to install.
"""

import re

import keras
import numpy as np

from sparsity_tf.extras import import_optional

# Format -> the package that runs its files.
RUNTIMES = {
    "litert": "ai_edge_litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tf_saved_model": "tensorflow",
    "torch": "torch",
}


def require_runtime(format):
    """Raises an `ImportError` unless the runtime of a format is installed."""
    if format == "litert":
        _litert_interpreter()
    else:
        import_optional(RUNTIMES[format])


def open_runtime(format, path, input_names=(), threads=None):
    """Loads an exported file into the runtime of its format.

    Args:
        format: "litert", "onnx", "openvino", "tf_saved_model" or "torch".
        path: Path of the file or folder.
        input_names: Names of the model's inputs, in the model's order. They are needed for runtimes that sort inputs
            otherwise.
        threads: Number of threads, or `None` for the runtime's own choice. (TensorFlow and torch use the number of the
            process.)

    Returns:
        A function that takes the inputs, a list of arrays in the model's order, and returns the list of outputs. Its
        method `prepared(inputs)` returns a function without arguments that computes the same once, with as little
        overhead as the runtime allows. Time this function.
    """
    return _OPEN[format](str(path), list(input_names), threads)


class _LiteRT:
    def __init__(self, path, names, threads):
        self._names = names
        self._interpreter = _litert_interpreter()(model_path=path, num_threads=threads)
        details = self._interpreter.get_input_details()
        self._inputs = _in_order([detail["name"] for detail in details], names)
        outputs = [detail["name"] for detail in self._interpreter.get_output_details()]
        self._outputs = sorted(range(len(outputs)), key=lambda i: _natural(outputs[i]))
        signatures = self._interpreter.get_signature_list()
        self._signature = next(iter(signatures), None)
        if self._signature is not None:
            self._by_signature = signatures[self._signature]

    def prepared(self, inputs):
        details = self._interpreter.get_input_details()
        if any(tuple(details[i]["shape"]) != x.shape for i, x in zip(self._inputs, inputs, strict=True)):
            for index, x in zip(self._inputs, inputs, strict=True):
                self._interpreter.resize_tensor_input(details[index]["index"], x.shape)
        self._interpreter.allocate_tensors()
        for index, x in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(details[index]["index"], x.astype(details[index]["dtype"]))
        return self._interpreter.invoke

    def __call__(self, inputs):
        if self._signature is not None:
            # Outputs of a file have the names of its tensors, in any order. A signature keeps the model's names and
            # order.
            runner = self._interpreter.get_signature_runner(self._signature)
            names = self._by_signature["inputs"]
            order = _in_order(names, self._names)
            found = runner(**{names[i]: x for i, x in zip(order, inputs, strict=True)})
            return [np.asarray(found[name]) for name in sorted(found, key=_natural)]
        self.prepared(inputs)()
        details = self._interpreter.get_output_details()
        return [self._interpreter.get_tensor(details[i]["index"]) for i in self._outputs]


class _ONNX:
    def __init__(self, path, names, threads):
        onnxruntime = import_optional(RUNTIMES["onnx"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        held = [one.name for one in self._session.get_inputs()]
        self._names = [held[i] for i in _in_order(held, names)]

    def prepared(self, inputs):
        feed = dict(zip(self._names, inputs, strict=True))
        return lambda: self._session.run(None, feed)

    def __call__(self, inputs):
        return self.prepared(inputs)()


class _OpenVINO:
    def __init__(self, path, names, threads):
        openvino = import_optional(RUNTIMES["openvino"])
        # Forces the precision of the file: on some processors the default is bfloat16.
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        held = [one.get_any_name() for one in compiled.inputs]
        self._order = _in_order(held, names)
        self._request, self._outputs = compiled.create_infer_request(), compiled.outputs

    def prepared(self, inputs):
        feed = dict(zip(self._order, inputs, strict=True))
        return lambda: self._request.infer(feed)

    def __call__(self, inputs):
        results = self.prepared(inputs)()
        return [np.array(results[output]) for output in self._outputs]


class _SavedModel:
    def __init__(self, path, names, threads):
        tensorflow = import_optional(RUNTIMES["tf_saved_model"])
        self._tensorflow, self._model = tensorflow, tensorflow.saved_model.load(path)
        signature = self._model.signatures["serving_default"]
        held = sorted(signature.structured_input_signature[1], key=_natural)
        self._signature, self._names = signature, [held[i] for i in _in_order(held, names)]

    def prepared(self, inputs):
        feed = {name: self._tensorflow.constant(x) for name, x in zip(self._names, inputs, strict=True)}
        return lambda: self._signature(**feed)

    def __call__(self, inputs):
        found = self.prepared(inputs)()
        return [np.asarray(found[name]) for name in sorted(found, key=_natural)]


class _Torch:
    def __init__(self, path, names, threads):
        self._torch = import_optional(RUNTIMES["torch"])
        self._module = self._torch.export.load(path).module()

    def prepared(self, inputs):
        tensors = [self._torch.from_numpy(np.ascontiguousarray(x)) for x in inputs]
        arguments = tensors if len(tensors) == 1 else [tensors]

        def call():
            with self._torch.no_grad():
                return self._module(*arguments)

        return call

    def __call__(self, inputs):
        outputs = self.prepared(inputs)()
        flat = keras.tree.flatten(outputs)
        return [one.detach().cpu().numpy() for one in flat]


_OPEN = {"litert": _LiteRT, "onnx": _ONNX, "openvino": _OpenVINO, "tf_saved_model": _SavedModel, "torch": _Torch}


def _litert_interpreter():
    """The interpreter of LiteRT, or TensorFlow's older interpreter if `ai-edge-litert` is missing."""
    try:
        return import_optional("ai_edge_litert.interpreter").Interpreter
    except ImportError as error:
        try:
            import tensorflow
        except ImportError:
            raise error from None
        # `tensorflow.lite` is an attribute, not a module that can be imported.
        return tensorflow.lite.Interpreter


def _in_order(held, names):
    """Positions of the model's inputs in `held`: by name if all names are found, else by the numbers in the names."""
    found = []
    for name in names:
        exact = [i for i, one in enumerate(held) if one == name]
        near = [i for i, one in enumerate(held) if re.search(rf"(^|_){re.escape(name)}(:\d+)?$", one)]
        found += (exact or near)[:1]
    if len(set(found)) == len(held):
        return found
    return sorted(range(len(held)), key=lambda i: _natural(held[i]))


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
