"""The layout of a layer's variables over several devices: `keras.distribution`, which only JAX has."""

import keras


def has_data_parallelism():
    """Whether Keras can split batches over devices by `keras.distribution`: on JAX only."""
    return keras.backend.backend() == "jax"


class WholeBatches(keras.distribution.DataParallel):
    """Data parallelism that also takes batches which the devices can't share evenly: each device computes all of them.

    The last batch of an evaluation is often such a batch.
    """

    def get_data_layout(self, data_shape):
        if data_shape and data_shape[0] % self.device_mesh.devices.size == 0:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


def use_all_devices():
    """Splits every batch over all devices of JAX from now on. Returns the number of devices.

    Models that are made or loaded later have their variables on every device.
    """
    distribution = WholeBatches()
    keras.distribution.set_distribution(distribution)
    return int(distribution.device_mesh.devices.size)


def follow_layout(variable, reference):
    """Gives a variable the layout of a reference variable, axis by axis, and moves its value to the right devices.

    A layout map names kernels. Its patterns do not match the variables that a technique adds to a kernel, so each
    device would hold these variables in full. An axis that is shorter than the same axis of the reference (one
    threshold for a whole filter, for example) is not divided.

    Args:
        variable: `keras.Variable`. Its layout stays if the layout map has an entry for the variable's own path.
        reference: `keras.Variable` that has the layout. If it has none, nothing happens.
    """
    layout = _layout_of(reference)
    if layout is None or _named_in_layout_map(variable):
        return
    if tuple(variable.shape) != tuple(reference.shape):
        layout = _layout_of_common_axes(layout, variable.shape, reference.shape)
        if layout is None:
            return
    variable._layout = layout
    if variable._value is not None:
        # `assign` moves the value to the variable's new layout.
        variable.assign(variable.value)


def _layout_of(variable):
    layout, distribution = getattr(variable, "_layout", None), keras.distribution.distribution()
    if layout is None and variable._value is None and distribution is not None:
        # The variable was made in a scope without side effects. Keras sets its layout only when it sets its value.
        return distribution.get_variable_layout(variable)
    return layout


def _named_in_layout_map(variable):
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.get_tensor_layout(variable.path) is not None


def _layout_of_common_axes(layout, shape, of_shape):
    """The layout that divides only axes of equal sizes in both shapes; `None` if the shapes can't be compared."""
    if len(shape) != len(of_shape) or not isinstance(layout, keras.distribution.TensorLayout):
        return None
    axes = [axis if size == other else None for axis, size, other in zip(layout.axes, shape, of_shape, strict=True)]
    return keras.distribution.TensorLayout(axes, layout.device_mesh)
