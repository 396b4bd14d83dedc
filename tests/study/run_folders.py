"""Folders of finished runs as the trainer writes them, as far as `study` reads them."""

import json

RECIPE = {
    "technique": "rigl",
    "model": "lenet_300_100",
    "final_sparsity": 0.9,
    "dense": None,
    "data_dir": "/data",
    "learning_rate": 0.1,
    "log_every": 1,
    "frame_every": 0,
    "keep_best": False,
    "keep_initial": False,
    "seed": 0,
}


def write_run(
    folder, test_error=None, sparsity=None, of_sparse="same", macs=None, collapsed=None, results=None, **recipe
):
    """Writes `results.json`. Arguments that are no entries of it are settings; `...` removes a setting."""
    recipe = {name: value for name, value in {**RECIPE, **recipe}.items() if value is not ...}
    content = {"recipe": recipe, "data": "made for a test", "epochs": 1, "collapsed": collapsed, "keras": "3"}
    content |= {"test_error": test_error} if results is None else results
    if macs is not None:
        content["macs"] = {"dense": 266_200, "sparse": macs}
    if collapsed is None:
        content["sparsity"] = sparsity
        content["sparsity_of_sparse_weights"] = sparsity if of_sparse == "same" else of_sparse
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content))
