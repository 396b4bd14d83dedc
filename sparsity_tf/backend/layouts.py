"""Where the variables of a layer lie on several devices: `keras.distribution`, which JAX alone has."""

import keras


def follow_layout(variable, reference):
    """Lays a variable out over the devices as another one is, axis by axis, and moves its value there.

    A layout map names kernels. Its patterns do not find the variables that a technique adds to a kernel, and each
    device would hold all of them. An axis that is shorter than the reference's (one threshold for a whole filter, say)
    is not divided.

    Args:
        variable: `keras.Variable`. It stays where it is if the layout map has an entry for its own path.
        reference: `keras.Variable` whose layout it takes; without a layout nothing happens.
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
        # `assign` brings a value to the variable's layout.
        variable.assign(variable.value)


def _layout_of(variable):
    layout, distribution = getattr(variable, "_layout", None), keras.distribution.distribution()
    if layout is None and variable._value is None and distribution is not None:
        # Made in a scope without side effects: Keras decides when it gives the variable a value.
        return distribution.get_variable_layout(variable)
    return layout


def _named_in_layout_map(variable):
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.get_tensor_layout(variable.path) is not None


def _layout_of_common_axes(layout, shape, of_shape):
    """The layout of the axes that have the same size; `None` if there is no axis to compare."""
    if len(shape) != len(of_shape) or not isinstance(layout, keras.distribution.TensorLayout):
        return None
    axes = [axis if size == other else None for axis, size, other in zip(layout.axes, shape, of_shape, strict=True)]
    return keras.distribution.TensorLayout(axes, layout.device_mesh)
