"""Recipes on ImageNet: ResNet-50 and MobileNetV1 with every technique.

Sources of the numbers:
- `resnet50_{dense,gmp,random,vd,l0,...}`: *State of Sparsity* (Gale et al., arXiv 1902.09574): 128,000 steps of 1,024
  (102 epochs here), Nesterov, learning rate 0.4 with five epochs of warm-up, divided by ten at epochs 30, 60 and 80,
  label smoothing 0.1.
- `resnet50_gmp_extended`: the best sparse networks of the same paper: batches of 4,096, training 1.5 times as long,
  first layer dense. (The paper does not say whether the epochs at which the rate falls are stretched as well; here they
  are.)
- `resnet50_{str,dnw,str_dense,str_gmp}` and `mobilenetv1_*`: STR (Kusupati et al., ICML 2020, arXiv 2002.03231): 100
  epochs of batches of 256, momentum 0.875, cosine from 0.256 after five epochs of warm-up, label smoothing 0.1. The
  paper's program sets the rate once an epoch; here it changes with every step.
- `resnet50_{rigl,set,static,snip}`: RigL (Evci et al., ICML 2020, arXiv 1911.11134): 32,000 steps of 4,096.
- `resnet50_budget_{dnw,gmp}`: the same paper's budget transfer, with the sparsities that its network of 90.23 % found
  for each layer.
- `resnet50_snfs`: the "tuned" recipe of sparse momentum (Dettmers & Zettlemoyer, arXiv 1907.04840). Its script
  `RN50_FP32_4GPU.sh` has rate 0.2 for batches of 256, and at first drops half of the weights (`--prune-rate`).
  `resnet50_snfs_fp16`: its scripts for half precision, with rate 0.4 for batches of 1,024 and 90 epochs.
- `resnet50_snfs_baseline`: the "baseline" recipe of the same program (`partially_dense/run_imagenet.sh`), which is the
  training of DSR in half precision with every kernel masked, a prune rate of 0.2 and the density 0.15626087. (The
  program gives no reason for this density. Its log ends at a top-1 accuracy of 72.33 %.) `resnet50_snfs_baseline_dense`
  is the same without masks.
- `resnet50_dsr`: DSR (Mostafa & Wang, ICML 2019, arXiv 1902.05967).
- `i1k_resnet_*`: the unfinished ImageNet script of DSR's `dst` package: ResNet-50 for images of 64 x 64 pixels, with
  masks like the spatial bottleneck (Peng et al., arXiv 1809.02601), or with the spatial bottleneck itself.

Nothing is held out of the training images, because record shards can't be split, so no `best.keras` is kept: it could
only be chosen on the images that measure the network. With image folders, `--validation_split=0.01 --keep_best` holds
some out.

Several of these presets have published settings for more sparsities than one, which `--final_sparsity` picks:
`published.py`. `scratch.py` has the recipes that train again under the masks of a pruned network.

None of these recipes has been run to its end, which takes days on one GPU. `tests/train/classifier/test_imagenet.py`
trains, resumes, converts and evaluates on generated records in the original layout.
"""

from sparsity_tf.models import DSR_RESNET, FIRST_LAYER_DENSE
from sparsity_tf.train.classifier.recipe import Recipe

_IMAGENET = {
    "dataset": "imagenet",
    "kernel_initializer": "default",
    "optimizer": "sgd",
    "frame_every": 1000,
}
_RESNET50 = {**_IMAGENET, "model": "resnet"}

STATE_OF_SPARSITY = {
    **_RESNET50,
    "model_options": {"depth": 50, "variant": "state_of_sparsity"},
    "imagenet_pipeline": "state_of_sparsity",
    "nesterov": True,
    "learning_rate": 0.4,
    "lr_schedule": "piecewise",
    "lr_warmup_epochs": 5.0,
    "lr_boundaries": (30, 60, 80),
    "lr_factors": (0.1, 0.01, 0.001),
    "kernel_l2": 5e-5,
    "label_smoothing": 0.1,
    "epochs": 102,
    "batch_size": 1024,
    "keep_initial": True,
}
# Settings for 90 % sparsity from the paper's published grids. `_PRUNED` are the settings of its scratch and lottery
# experiments, and `_PRUNED_AT_RANDOM` the best settings for random pruning.
_PRUNED = {"final_sparsity": 0.9, "begin_step": 40_000, "end_step": 76_000, "frequency": "2000"}
_PRUNED_AT_RANDOM = {"final_sparsity": 0.9, "end_step": 40_000, "frequency": "2000"}

_STR = {
    **_IMAGENET,
    "imagenet_pipeline": "str",
    "momentum": 0.875,
    "learning_rate": 0.256,
    "lr_schedule": "cosine",
    "lr_decay_from": 0.05,
    "lr_warmup_epochs": 5.0,
    "label_smoothing": 0.1,
    "epochs": 100,
    "batch_size": 256,
    "keep_initial": True,
}
_STEPS = 1_281_167 // 256
_STR_RESNET50 = {**_STR, "model": "resnet", "model_options": {"depth": 50, "variant": "str"}}
_STR_MOBILENET = {**_STR, "model": "mobilenet_v1"}


def decay(factor, thresholds=False):
    """PyTorch's weight decay, on kernels, biases, batch normalisation and, if asked, the thresholds."""
    halves = {"kernel_l2": factor / 2, "other_l2": factor / 2}
    return {**halves, "threshold_l2": factor / 2} if thresholds else halves


# The masks change once an epoch, from epoch 20 to epoch 79, both included: T = 60.
_STR_GMP = {
    "technique": "gmp",
    "final_sparsity": 0.9,
    "begin_step": 20 * _STEPS,
    "end_step": 80 * _STEPS,
    "frequency": "epoch",
}

# The training of DSR, which is also the "baseline" of sparse momentum.
_DSR = {
    **_RESNET50,
    "model_options": {"depth": 50, "variant": "dsr"},
    "imagenet_pipeline": "str",
    "learning_rate": 0.1,
    "nesterov": True,
    "lr_schedule": "piecewise",
    "lr_boundaries": (30, 60, 90),
    "lr_factors": (0.1, 0.01, 0.001),
    "kernel_l2": 5e-5,
    "other_l2": 5e-5,
    "epochs": 100,
    "batch_size": 256,
}
_TUNED = {
    **_RESNET50,
    "model_options": {"depth": 50, "variant": "str", "classifier": "dense"},
    "imagenet_pipeline": "str",
    "learning_rate": 0.2,
    "lr_schedule": "piecewise",
    "lr_warmup_epochs": 5.0,
    "lr_boundaries": (30, 60, 80),
    "lr_factors": (0.1, 0.01, 0.001),
    "kernel_l2": 5e-5,
    "label_smoothing": 0.1,
    "epochs": 100,
    "batch_size": 256,
}

_RIGL = {
    **STATE_OF_SPARSITY,
    "learning_rate": 1.6,
    "lr_boundaries": (30, 70, 90),
    "where": FIRST_LAYER_DENSE,
    "batch_size": 4096,
    "final_sparsity": 0.9,
}
_RIGL_UPDATES = {"distribution": "erk", "frequency": "100", "end_step": 25_000}

_I1K = {
    **_IMAGENET,
    "model": "i1k_resnet",
    "imagenet_pipeline": "str",
    "image_size": 64,
    "nesterov": True,
    "learning_rate": 0.1,
    "lr_schedule": "piecewise",
    "lr_boundaries": (30, 60, 90),
    "lr_factors": (0.1, 0.01, 0.001),
    "kernel_l2": 5e-5,
    "other_l2": 5e-5,
    "epochs": 100,
    "batch_size": 256,
}

IMAGENET = {
    "resnet50_dense": Recipe(**STATE_OF_SPARSITY),
    "resnet50_gmp": Recipe(**STATE_OF_SPARSITY, **_PRUNED, technique="gmp"),
    "resnet50_gmp_extended": Recipe(
        **{
            **STATE_OF_SPARSITY,
            "learning_rate": 1.6,
            "lr_warmup_epochs": 7.5,
            "lr_boundaries": (45, 90, 120),
            "epochs": 153,
            "batch_size": 4096,
        },
        technique="gmp",
        where=FIRST_LAYER_DENSE,
        final_sparsity=0.91,
        begin_step=12_500,
        end_step=36_000,
        frequency="2000",
        distribution="stage.*=0.91,classifier=0.8",
    ),
    "resnet50_random": Recipe(**{**STATE_OF_SPARSITY, **_PRUNED_AT_RANDOM, "label_smoothing": 0.0}, technique="random"),
    # The settings of the published network with 90.3 % zeros. The penalty rises from step 20,000 to 68,000, and weight
    # decay acts on the means as in a dense net. The paper's program begins log sigma^2 at -15, although the default of
    # its layers is -10.
    "resnet50_vd": Recipe(
        **{**STATE_OF_SPARSITY, "label_smoothing": 0.0},
        technique="vd",
        technique_options={"log_sigma2_initializer": -15.0, "log_alpha_threshold": 0.5},
        penalty_weight=0.1,
        penalty_begin_epoch=20_000 / 1251,
        penalty_end_epoch=68_000 / 1251,
    ),
    # An initial log alpha of 2.197 is a keep probability of 0.9. The published penalty weights for it are 400 to 495.
    "resnet50_l0": Recipe(
        **{**STATE_OF_SPARSITY, "kernel_l2": 0.0},
        technique="l0",
        technique_options={"initial_dropout_rate": 0.1},
        penalty_weight=450.0,
        penalty_begin_epoch=4.0,
        penalty_end_epoch=60.0,
    ),
    "resnet50_str_dense": Recipe(**_STR_RESNET50, **decay(2**-15)),
    "resnet50_str": Recipe(
        **_STR_RESNET50,
        **decay(2.251757813e-5, thresholds=True),
        technique="str",
        technique_options={"threshold_initializer": -3200.0},
    ),
    "resnet50_dnw": Recipe(**_STR_RESNET50, **decay(2**-15), technique="dnw", final_sparsity=0.9),
    "resnet50_str_gmp": Recipe(**_STR_RESNET50, **decay(2**-15), **_STR_GMP),
    "resnet50_budget_dnw": Recipe(
        **_STR_RESNET50, **decay(2**-15), technique="dnw", final_sparsity=0.9023, distribution="str:90.23"
    ),
    "resnet50_budget_gmp": Recipe(
        **_STR_RESNET50,
        **decay(2**-15),
        **{**_STR_GMP, "final_sparsity": 0.9023},
        distribution="str:90.23",
    ),
    "resnet50_rigl": Recipe(**_RIGL, **_RIGL_UPDATES, technique="rigl"),
    "resnet50_set": Recipe(**_RIGL, **_RIGL_UPDATES, technique="set"),
    "resnet50_static": Recipe(**_RIGL, technique="static", distribution="erk"),
    "resnet50_snip": Recipe(**_RIGL, technique="snip"),
    "resnet50_snfs": Recipe(**_TUNED, technique="snfs", final_sparsity=0.8, drop_fraction=0.5),
    "resnet50_snfs_fp16": Recipe(
        **{**_TUNED, "learning_rate": 0.4, "epochs": 90, "batch_size": 1024, "dtype_policy": "mixed_float16"},
        technique="snfs",
        final_sparsity=0.8,
        drop_fraction=0.5,
    ),
    "resnet50_snfs_baseline": Recipe(
        **_DSR, dtype_policy="mixed_float16", technique="snfs", final_sparsity=1 - 0.15626087, drop_fraction=0.2
    ),
    "resnet50_snfs_baseline_dense": Recipe(**_DSR, dtype_policy="mixed_float16"),
    "resnet50_dsr": Recipe(
        **_DSR,
        technique="dsr",
        where="|".join(DSR_RESNET),
        final_sparsity=0.9,
        frequency="0:1000,25:2000,50:4000,75:8000",
        end_step=95 * _STEPS,
        prune_target=400_000,
    ),
    **{
        f"i1k_resnet_sb_{mask}": Recipe(**_I1K, model_options={"depth": 50, "spatial_mask": mask, "quarters": 2})
        for mask in ("none", "structured", "static", "dynamic")
    },
    "i1k_resnet_bottleneck": Recipe(**_I1K, model_options={"depth": 50, "spatial_bottleneck": True}),
    "mobilenetv1_dense": Recipe(**_STR_MOBILENET, **decay(2**-15)),
    "mobilenetv1_str": Recipe(
        **_STR_MOBILENET,
        **decay(3.751757813e-5, thresholds=True),
        technique="str",
        technique_options={"threshold_initializer": -12800.0},
    ),
    "mobilenetv1_gmp": Recipe(**_STR_MOBILENET, **decay(2**-15), **{**_STR_GMP, "final_sparsity": 0.89}),
    "mobilenetv1_dnw": Recipe(**_STR_MOBILENET, **decay(2**-15), technique="dnw", final_sparsity=0.89),
}
