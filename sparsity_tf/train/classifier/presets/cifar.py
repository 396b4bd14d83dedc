"""Recipes on CIFAR-10: wide ResNets, VGG, AlexNet, ResNets with a spatial bottleneck, and a short one for a CPU.

Sources of the numbers:
- `wrn-28-2_*`: DSR (Mostafa & Wang, ICML 2019, arXiv 1902.05967) and its program: 200 epochs of batches of 100.
  `wrn-28-2_dsr_kernel` moves whole 3x3 kernels (`--sub-kernel-granularity 2`).
- `wrn-28-2_dst`: the main command of DSR's `dst` package: its own wide ResNet, 200 epochs of batches of 128. 90 % of
  all parameters are zero, and an update prunes about 1 % of them.
- `wrn-16-8_*`, `vgg_*`, `alexnet_*`, `wrn-28-2_snfs`: sparse momentum (Dettmers & Zettlemoyer, arXiv 1907.04840): 250
  epochs of batches of 128; the learning rate falls every 30,000 steps. As in its program, the last tenth of the
  training images is held out. Here their error also chooses `best.keras`.
- `wrn-22-2_*`: RigL (Evci et al., ICML 2020, arXiv 1911.11134): 97,656 steps of 128 (250 epochs here: 97,500).
- `vgg_like_vd`: SparseVD (Molchanov et al., ICML 2017, arXiv 1701.05369), from random weights. The paper's route has
  two stages. `vgg_like_dropout_dense` is the first: the network with binary dropout, and L2 of 1e-5. (The layer with
  binary dropout in its program limits the norm of the weights into a unit to 3; here both dense layers have this limit.
  The program as committed trains the baseline at a rate of 1e-5, too slow for new weights; here it is 1e-3.)
  `vgg_like_pretrained_vd` is the second, with the program's settings: rate 1e-5, log sigma^2 from -15, no dropout and
  no mask in training. Give it `--load_weights=runs/vgg_like_dropout_dense/model.keras`.
- `vgg_like_sbp`: structured Bayesian pruning (Neklyudov et al., NIPS 2017, arXiv 1705.07283): 300 epochs of batches of
  100, rate 1e-5 for the weights of a trained network and 1e-4 for the noise. Give it the network as `--load_weights`:
  `vgg_like_dropout_dense` with the same `--normalize`, `--augment` and `--shift_pixels`, and width 1. The authors draw
  the noise once for a mini-batch and freeze batch normalisation; here each example has its draw, and normalisation goes
  on. They also change brightness and contrast. `vgg_like_sbpa` is their SBPa, "for acceleration": the divergence
  counts ten times in the first two convolutions and five times in the next two, which cost the most.
- `cifar_resnet_sb_*`: masks like the spatial bottleneck (Peng et al., arXiv 1809.02601) of the `dst` package, on
  ResNet-110; `cifar_resnet_bottleneck` has the spatial bottleneck itself.
- `smallnet_*`: our own recipes, four epochs of a VGG-like net of a quarter of the width, so that two CPU cores can
  compare the techniques.

The weight decay of these programs is part of the gradient (kernel_l2 = decay / 2). It also acts on biases and batch
normalisation (other_l2), except in RigL's program and in the recipes `cifar_resnet_*`.

The other programs train on all images and report the last network. So do their recipes: nothing is held out, and no
`best.keras` is kept. `--validation_split=0.1 --keep_best` changes that.
"""

from sparsity_tf.models import DSR_WIDE_RESNET, FIRST_LAYER_DENSE
from sparsity_tf.train.classifier.recipe import Recipe

_CIFAR = {
    "dataset": "cifar10",
    "normalize": "standardize",
    "augment": "crop_flip",
    "shift_pixels": 4,
    "kernel_initializer": "default",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "nesterov": True,
    "frame_every": 1000,
}

_DSR = {
    **_CIFAR,
    "normalize": "standardize_dsr",
    "model": "wide_resnet",
    "model_options": {"depth": 28, "width": 2, "variant": "dsr"},
    "kernel_l2": 2.5e-4,
    "other_l2": 2.5e-4,
    "lr_schedule": "piecewise",
    "lr_boundaries": (60, 120, 160),
    "lr_factors": (0.2, 0.04, 0.008),
    "epochs": 200,
    "batch_size": 100,
}
# Steps between mask updates, by epoch. DSR's program uses them for every algorithm.
_DSR_PERIODS = "0:100,25:200,80:400,140:800"
_DSR_SPARSE = {**_DSR, "where": "|".join(DSR_WIDE_RESNET), "final_sparsity": 0.9}

_SPARSE_MOMENTUM = {
    **_CIFAR,
    "validation_split": 0.1,
    "validation_seed": -1,
    "keep_best": True,
    "kernel_l2": 2.5e-4,
    "other_l2": 2.5e-4,
    "lr_schedule": "piecewise",
    # The boundaries 30,000 and 60,000 in epochs: 45,000 images make 351 steps of 128. The third, 90,000, comes after
    # the 87,750 steps of 250 epochs.
    "lr_boundaries": (30_000 / 351, 60_000 / 351, 90_000 / 351),
    "lr_factors": (0.1, 0.01, 0.001),
    "epochs": 250,
    "batch_size": 128,
}

# Network -> (builder, its options, sparsity at which the paper compares the network with the dense one).
_SPARSE_MOMENTUM_NETS = {
    "alexnet_s": ("alexnet_s", {}, 0.9),
    "alexnet_b": ("alexnet_b", {}, 0.9),
    "vgg_c": ("vgg_c", {}, 0.95),
    "vgg_d": ("vgg_d", {}, 0.95),
    "vgg_like": ("vgg_like", {}, 0.97),
    "wrn-16-8": ("wide_resnet", {"depth": 16, "width": 8}, 0.95),
    "wrn-16-10": ("wide_resnet", {"depth": 16, "width": 10}, 0.95),
    "wrn-22-8": ("wide_resnet", {"depth": 22, "width": 8}, 0.95),
}

_RIGL = {
    **_CIFAR,
    "normalize": "per_image",
    "model": "wide_resnet",
    "model_options": {"depth": 22, "width": 2},
    "kernel_l2": 2.5e-4,
    "lr_schedule": "piecewise",
    "lr_boundaries": (30_000 / 390, 60_000 / 390, 90_000 / 390),
    "lr_factors": (0.2, 0.04, 0.008),
    "epochs": 250,
    "batch_size": 128,
}
_RIGL_SPARSE = {
    **_RIGL,
    "where": FIRST_LAYER_DENSE,
    "final_sparsity": 0.9,
    "distribution": "erk",
    "frequency": "100",
    "end_step": 75_000,
}

# SparseVD's program trains its other new networks at the rate 1e-3.
_SPARSE_VD = {
    **_CIFAR,
    "model": "vgg_like",
    "normalize": "zca",
    "augment": "none",
    "optimizer": "adam",
    "nesterov": False,
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "lr_decay_from": 0.5,
    "epochs": 200,
    "batch_size": 100,
}

_VGG_SBP = {
    **_SPARSE_VD,
    "normalize": "per_image",
    "augment": "crop_flip",
    "shift_pixels": 2,
    "learning_rate": 1e-5,
    "lr_decay_from": 250 / 300,
    "epochs": 300,
    "model_options": {"variant": "sparse_vd", "width": 1.0},
    "technique": "sbp",
    "technique_options": {"axis": "mixed", "draw": "example"},
    "technique_rate": 10.0,
    "penalty_schedule": "none",
}

_SPATIAL = {
    **_CIFAR,
    "normalize": "standardize_dsr",
    "model": "cifar_resnet",
    "kernel_l2": 5e-5,
    "lr_schedule": "piecewise",
    "lr_boundaries": (200, 300),
    "lr_factors": (0.1, 0.01),
    "epochs": 400,
    "batch_size": 64,
}

_SMALL = {
    **_CIFAR,
    "model": "vgg_like",
    "model_options": {"width": 0.25},
    "kernel_l2": 2.5e-4,
    "lr_schedule": "cosine",
    "lr_decay_from": 0.125,
    # A warm-up, because four epochs leave no time to recover from a bad first epoch.
    "lr_warmup_epochs": 0.5,
    "epochs": 4,
    "batch_size": 128,
}
# Masks change for the last time after three quarters of the 1,560 steps.
_SMALL_MASKS = {**_SMALL, "final_sparsity": 0.9, "end_step": 1170, "frequency": "50"}


def _sparse_momentum_recipes():
    recipes = {}
    for name, (model, options, sparsity) in _SPARSE_MOMENTUM_NETS.items():
        net = {**_SPARSE_MOMENTUM, "model": model, "model_options": options}
        recipes[f"{name}_dense"] = Recipe(**net)
        for technique in ("snfs", "gmp", "rigl", "set", "static"):
            more = {"end_step": 70_000, "begin_step": 5_000, "frequency": "500"} if technique == "gmp" else {}
            recipes[f"{name}_{technique}"] = Recipe(**net, technique=technique, final_sparsity=sparsity, **more)
    return recipes


CIFAR = {
    "wrn-28-2_dense": Recipe(**_DSR),
    "wrn-28-2_dsr": Recipe(
        **_DSR_SPARSE,
        technique="dsr",
        frequency=_DSR_PERIODS,
        end_step=190 * 500,
        prune_target=20_000,
    ),
    "wrn-28-2_dsr_kernel": Recipe(
        **_DSR_SPARSE,
        technique="dsr",
        structure="3x3x1x1",
        frequency=_DSR_PERIODS,
        end_step=190 * 500,
        prune_target=2_000,
    ),
    "wrn-28-2_dst": Recipe(
        **{
            **_DSR_SPARSE,
            "model_options": {"depth": 28, "width": 2, "variant": "dst"},
            "batch_size": 128,
        },
        technique="dsr",
        technique_options={"variant": "model"},
        frequency=_DSR_PERIODS,
        prune_target=0.01,
    ),
    # DSR's program gives SET, for each sparsity, its share of live weights to drop. This is the share for 0.9.
    "wrn-28-2_set": Recipe(
        **_DSR_SPARSE,
        technique="set",
        frequency=_DSR_PERIODS,
        end_step=190 * 500,
        drop_fraction=0.138,
        decay="constant",
    ),
    "wrn-28-2_static": Recipe(**_DSR_SPARSE, technique="static"),
    # In DSR's program, compression by gradual pruning prunes 20 times, every second epoch.
    "wrn-28-2_gmp": Recipe(**_DSR_SPARSE, technique="gmp", frequency="1000", end_step=40 * 500),
    # Sparse momentum's program masks all kernels.
    "wrn-28-2_snfs": Recipe(
        **{**_SPARSE_MOMENTUM, "model": "wide_resnet", "model_options": {"depth": 28, "width": 2}},
        technique="snfs",
        final_sparsity=0.9,
    ),
    "wrn-28-2_rigl": Recipe(**_DSR_SPARSE, technique="rigl", distribution="erk", frequency="100", end_step=75_000),
    "wrn-22-2_dense": Recipe(**_RIGL),
    "wrn-22-2_rigl": Recipe(**_RIGL_SPARSE, technique="rigl"),
    "wrn-22-2_set": Recipe(**_RIGL_SPARSE, technique="set"),
    "wrn-22-2_gmp": Recipe(
        **{**_RIGL_SPARSE, "distribution": "uniform", "frequency": "1000"}, technique="gmp", begin_step=20_000
    ),
    **_sparse_momentum_recipes(),
    "vgg_like_vd": Recipe(
        **_SPARSE_VD,
        model_options={"variant": "sparse_vd", "width": 0.5},
        technique="vd",
        technique_options={"log_sigma2_initializer": -10.0, "log_alpha_threshold": 3.0},
        penalty_begin_epoch=5,
        penalty_end_epoch=20,
    ),
    "vgg_like_dropout_dense": Recipe(
        **{**_SPARSE_VD, "kernel_l2": 1e-5},
        model_options={"variant": "sparse_vd_baseline", "width": 0.5, "max_norm": 3.0},
    ),
    "vgg_like_pretrained_vd": Recipe(
        **{**_SPARSE_VD, "learning_rate": 1e-5},
        model_options={"variant": "sparse_vd", "width": 0.5},
        technique="vd",
        technique_options={"log_sigma2_initializer": -15.0, "log_alpha_threshold": 3.0},
        penalty_begin_epoch=5,
        penalty_end_epoch=20,
    ),
    "vgg_like_sbp": Recipe(**_VGG_SBP),
    "vgg_like_sbpa": Recipe(
        **_VGG_SBP, penalty_factors={"stem": 10.0, "stage1_conv2": 10.0, "stage2_conv1": 5.0, "stage2_conv2": 5.0}
    ),
    **{
        f"cifar_resnet_sb_{mask}": Recipe(**_SPATIAL, model_options={"depth": 110, "spatial_mask": mask, "quarters": 2})
        for mask in ("none", "structured", "static", "dynamic")
    },
    "cifar_resnet_bottleneck": Recipe(**_SPATIAL, model_options={"depth": 110, "spatial_bottleneck": True}),
    "smallnet_dense": Recipe(**_SMALL),
    "smallnet_gmp": Recipe(**_SMALL_MASKS, technique="gmp", begin_step=195),
    "smallnet_rigl": Recipe(**_SMALL_MASKS, technique="rigl", distribution="erk"),
    "smallnet_set": Recipe(**_SMALL_MASKS, technique="set", distribution="erk"),
    "smallnet_snfs": Recipe(**{**_SMALL_MASKS, "frequency": "130"}, technique="snfs"),
    "smallnet_dsr": Recipe(**_SMALL_MASKS, technique="dsr", prune_target=3_000),
    "smallnet_static": Recipe(
        **{**_SMALL_MASKS, "end_step": None, "frequency": None}, technique="static", distribution="erk"
    ),
    "smallnet_str": Recipe(
        **{**_SMALL, "kernel_l2": 5e-4},
        technique="str",
        technique_options={"threshold_initializer": -8.0},
        threshold_l2=4e-4,
    ),
    "smallnet_vd": Recipe(
        **{**_SMALL, "kernel_l2": 0.0, "optimizer": "adam", "nesterov": False, "learning_rate": 2e-3},
        technique="vd",
        technique_options={"log_sigma2_initializer": -8.0, "log_alpha_threshold": 3.0},
        penalty_weight=0.5,
        penalty_begin_epoch=0.5,
        penalty_end_epoch=2.5,
    ),
}
