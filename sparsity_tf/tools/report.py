r"""Compares a saved network with a dense one in each runtime: size, latency, and the reason if nothing is gained.

```
python -m sparsity_tf.tools.report model.keras \
    [--batch_sizes=1,32] [--rounds=9] [--targets=keras,litert] [--plot=report.png] [--format=table|json]
```

The file may also be given as `--checkpoint=model.keras`. The report goes to standard output. If a runtime is not
installed, its row says so. Exit status 1 if anything is wrong, 2 for wrong flags.
"""

import json
import sys

from absl import flags

from sparsity_tf.tools.command import appearing, check_output, load_model, run

_NAME = "report"


def main(argv=None):
    """Runs the command; returns the exit status: 0, 1 (it failed) or 2 (wrong flags)."""
    return run(_NAME, __doc__, _define_flags, _run, argv, takes_paths=True)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string(
        "checkpoint", None, "The network, sparse or dense: a .keras file or a published checkpoint.", **own
    )
    flags.DEFINE_list("batch_sizes", ["1", "32"], "Batch sizes.", **own)
    flags.DEFINE_integer(
        "rounds",
        9,
        "Number of rounds of measurements. Each round runs each form of the network once.",
        lower_bound=1,
        **own,
    )
    flags.DEFINE_list(
        "targets",
        None,
        "Runtimes to compare: one or more of keras, litert, onnx, openvino, gpu_2_4. Default: all.",
        **own,
    )
    flags.DEFINE_string("plot", None, "Where to write a picture, a .png file.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the picture if it is there.", **own)
    flags.DEFINE_enum("format", "table", ["table", "json"], "How to print the report.", **own)


def _run(values, paths):
    files = paths if values.checkpoint is None else [values.checkpoint, *paths]
    if len(files) != 1:
        raise flags.Error(f"Give the file of one network, as an argument or as --checkpoint. Received: {files}")
    try:
        batch_sizes = tuple(int(size) for size in values.batch_sizes)
    except ValueError:
        raise flags.Error(f"Flag --batch_sizes must be integers. Received: {','.join(values.batch_sizes)}") from None
    if values.plot is not None:
        check_output(values.plot, ".png", values.overwrite, flag="--plot")
    model = load_model(files[0])
    from sparsity_tf import deploy

    more = {} if values.targets is None else {"targets": tuple(values.targets)}
    report = deploy.deployment_report(model, batch_sizes=batch_sizes, rounds=values.rounds, **more)
    if values.plot is not None:
        with appearing(values.plot, values.overwrite) as unfinished:
            deploy.plot_deployment(report, unfinished)
    print(json.dumps(report.to_dict(), indent=2) if values.format == "json" else report)


if __name__ == "__main__":
    sys.exit(main())
