"""Studies without training: a stand-in for the program, which processes of their own run in its place."""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

TEXT = """\
program = "classifier"
config = "lenet300_magnitude"
seeds = [0, 1]

[settings]
validation_split = 0.1

[axes]
final_sparsity = [0.8, 0.95]

[tune]
learning_rate = [0.1, 0.03]

[[methods]]
technique = "magnitude"

[[methods]]
technique = "rigl"
"""


def results_of(arguments, **more):
    """The content of `results.json` of a run with these flags: figures that depend on the flags alone."""
    flags = dict(one.removeprefix("--").split("=", 1) for one in arguments if "=" in one)
    flags = {name: value for name, value in flags.items() if name != "output_dir"}
    chance = int(hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()[:6], 16) / 16**6
    sparsity = float(flags["final_sparsity"])
    recipe = {"technique": flags["technique"], "model": "lenet_300_100", "seed": int(flags["seed"])}
    return {
        "recipe": {**recipe, "final_sparsity": sparsity, "learning_rate": float(flags["learning_rate"])},
        "training_seconds": 10 + chance,
        "collapsed": None,
        "val_error": 0.02 + 0.01 * chance,
        "test_error": 0.03 + 0.01 * (1 - chance),
        "macs": {"dense": 1000, "sparse": round(1000 * (1 - sparsity))},
        "sparsity": sparsity,
        "sparsity_of_sparse_weights": sparsity,
        **more,
    }


def write(folder, run, **more):
    """Writes the folder of a finished run."""
    own = pathlib.Path(folder) / run.folder
    own.mkdir(parents=True, exist_ok=True)
    results = results_of(run.arguments, **more)
    (own / "recipe.json").write_text(json.dumps({**results["recipe"], "epochs": 1}))
    (own / "results.json").write_text(json.dumps(results))
    return results


def child(program, arguments, log, environment):
    """Takes the place of `local.child`. Files beside the study say how long a run takes and which runs go wrong."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # A fork has the handlers of the tests.
    own = pathlib.Path(next(one for one in arguments if one.startswith("--output_dir=")).partition("=")[2])
    study = next(parent for parent in own.parents if (parent / "orders.json").exists())
    orders = json.loads((study / "orders.json").read_text())
    began = own / "began"
    times = int(began.read_text()) + 1 if began.exists() else 1
    began.write_text(str(times))
    with open(log, "a") as file:
        file.write(f"start {times}\n")
        if any(word in str(own) for word in orders.get("refused", ())):
            file.write("error: `data_dir` has no such file\n")
            file.flush()
            sys.exit(2)
    if times <= orders.get("killed", {}).get(str(own.relative_to(study)), 0):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(orders.get("seconds", 0))
    results = results_of(arguments)
    (own / "recipe.json").write_text(json.dumps({**results["recipe"], "epochs": 1}))
    (own / "results.json").write_text(json.dumps(results))
