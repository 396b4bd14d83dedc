"""Recipes on MNIST: LeNet-300-100 and LeNet-5-Caffe with every technique, and the demo of `make train`.

Sources of the numbers: SparseVD (Molchanov et al., ICML 2017, arXiv 1701.05369) for `vd`; Neklyudov et al., NIPS 2017
(arXiv 1705.07283) for `sbp`; Louizos et al. 2018 (arXiv 1712.01312) for `l0`; Kusupati et al. 2020 (arXiv 2002.03231)
for `str`; Wortsman et al. 2019 (arXiv 1906.00586) for `dnw`; Dettmers and Zettlemoyer 2019 (arXiv 1907.04840) and their
program for sparse momentum, and for the training under all algorithms that move masks; Mostafa and Wang 2019 (arXiv
1902.05967) for `dsr` and `mnist_mlp_*`; Peste et al. 2021 (arXiv 2106.12379) for `acdc`; Liu et al. 2021 (arXiv
2106.10404) for `granet`; Zhou et al. 2021 (arXiv 2102.04010) for `srste`; Jayakumar et al. 2020 (arXiv 2106.03517) for
`topkast`; Schwarz et al. 2021 (arXiv 2110.00296) for `powerprop`; Sanh et al. 2020 (arXiv 2005.07683) for `movement`;
Lasby et al. 2024 (arXiv 2305.02299) for `srigl`; Yuan et al. 2021 (arXiv 2110.14032) for `mest`; Liu et al. 2017 (arXiv
1708.06519) for `slimming`; Wen et al. 2016 (arXiv 1608.03665) for `group_lasso`. A setting that a recipe leaves out has
the callback's or technique's default, which is taken from its paper.
"""

from sparsity_tf.train.classifier.recipe import Recipe

# The training of sparse momentum's MNIST experiments. All mask algorithms use it, so that only the algorithms differ.
# The program trains on the first 54,000 images and validates on the other 6,000. `--train_examples=0
# --validation_split=0.1 --validation_seed=-1` trains on the same images, and validates, too. An epoch has 540 steps,
# and the learning rate falls after 25,000 and 50,000 steps. The program's weight decay (`--l2`, 5e-4) is PyTorch's,
# which also acts on biases; the Keras factor of kernels and of biases is half of it.
_MASKS = {
    "train_examples": 54_000,
    "normalize": "standardize",
    "kernel_initializer": "torch_default",
    "kernel_l2": 2.5e-4,
    "other_l2": 2.5e-4,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "nesterov": True,
    "lr_schedule": "piecewise",
    "lr_boundaries": (25_000 / 540, 50_000 / 540),
    "lr_factors": (0.1, 0.01),
    "epochs": 100,
    "batch_size": 100,
    "final_sparsity": 0.95,
}

# DSR's experiments on MNIST: 784-300-100-10 with batch normalisation in the place of biases. The methods that DSR's
# paper compares are here at the same size: 5,324 numbers for 266,200 weights. The program stops moving masks after 90
# epochs. Its settings for SET, DeepR and HashedNet on MNIST are not known. SET has the program's default (a tenth of
# the live weights is moved). DeepR has the L1 coefficient of the program's CIFAR-10 runs and no weight decay, as there,
# and the temperature of its authors' program. HashedNet is that of its own paper.
_DSR = {
    "model": "mnist_mlp",
    "normalize": "standardize",
    "kernel_initializer": "torch_default",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "nesterov": True,
    "lr_schedule": "piecewise",
    "lr_boundaries": (25, 50, 75),
    "lr_factors": (0.2, 0.04, 0.008),
    "epochs": 100,
    "batch_size": 100,
}
_DSR_PERIODS = "0:100,25:200,50:400,75:800"
# The last update comes after nine tenths of training, the default of the callback.
_DSR_ITSELF = Recipe(
    **_DSR, technique="dsr", final_sparsity=0.98, frequency=_DSR_PERIODS, prune_target=600, kernel_l1=1e-4
)
_DSR_DECAY = {"kernel_l2": 5e-5, "other_l2": 5e-5}
_DSR_LAST_STEP = 90 * 600

_VD = {"log_sigma2_initializer": -10.0, "log_alpha_threshold": 3.0, "mask_in_training": True}

# Structured Bayesian pruning begins with a trained network: give `--load_weights=runs/lenet5_dense/model.keras`. As in
# the paper, noise is on filters of convolutions and on inputs of dense layers. The authors train 200 epochs at the rate
# 1e-3. Units die as fast as the weights can do without them, so a higher rate needs fewer epochs. The rates were chosen
# on validation images, in runs of 10 epochs (LeNet-5: of 3).
_SBP = {
    "technique": "sbp",
    "technique_options": {"axis": "mixed"},
    "learning_rate": 6e-3,
    "technique_rate": 8.0,
    "lr_decay_from": 0.6,
    "penalty_schedule": "none",
    "epochs": 45,
    "batch_size": 250,
}
_SBP_LENET_5 = {**_SBP, "learning_rate": 3e-3, "technique_rate": 16.0, "model": "lenet_5_caffe"}
_LENET_500_300 = {"model": "mnist_mlp", "model_options": {"hidden": [500, 300], "batch_norm": "none"}}

MNIST = {
    "lenet300_dense": Recipe(epochs=50),
    "lenet300_vd": Recipe(
        technique="vd",
        technique_options=_VD,
        kernel_initializer="normal:0.01",
        learning_rate=2e-3,
        lr_decay_from=0.5,
        penalty_begin_epoch=2.0,
        penalty_end_epoch=8.0,
        epochs=100,
    ),
    "lenet300_sbp": Recipe(**_SBP),
    "lenet300_l0": Recipe(
        technique="l0",
        technique_options={"initial_dropout_rate": 0.1},
        learning_rate=3e-3,
        penalty_weight=20.0,
        penalty_begin_epoch=2.0,
        penalty_end_epoch=10.0,
        epochs=60,
    ),
    "lenet300_str": Recipe(
        technique="str",
        technique_options={"threshold_initializer": -8.0},
        kernel_initializer="glorot_uniform",
        optimizer="sgd",
        learning_rate=0.05,
        lr_schedule="cosine",
        lr_decay_from=0.0,
        kernel_l2=3e-4,
        threshold_l2=1e-2,
        epochs=50,
        batch_size=100,
    ),
    "lenet300_dnw": Recipe(technique="dnw", final_sparsity=0.97, epochs=50),
    "lenet300_magnitude": Recipe(**_MASKS, technique="magnitude"),
    "lenet300_random": Recipe(**_MASKS, technique="random"),
    "lenet300_static": Recipe(**_MASKS, technique="static"),
    "lenet300_set": Recipe(**_MASKS, technique="set"),
    "lenet300_rigl": Recipe(**_MASKS, technique="rigl"),
    # As on CIFAR-10: a tenth of training is dense, and the last sparse phase is 15 % of it.
    "lenet300_acdc": Recipe(**_MASKS, technique="acdc", begin_step=10 * 540, end_step=85 * 540),
    "lenet300_granet": Recipe(**_MASKS, technique="granet"),
    "lenet300_srste": Recipe(**{**_MASKS, "final_sparsity": None}, technique="srste"),
    # The exploration loss takes the place of the weight decay of kernels.
    "lenet300_topkast": Recipe(
        **{**_MASKS, "kernel_l2": 0.0}, technique="topkast", technique_options={"exploration": 0.05, "l2": 2.5e-4}
    ),
    "lenet300_srigl": Recipe(**_MASKS, technique="srigl"),
    # The soft bound: more weights live between the mutations, every five epochs, until three quarters of training.
    "lenet300_mest": Recipe(
        **_MASKS, technique="mest", frequency=str(5 * 540), drop_fraction=0.5, technique_options={"soft": True}
    ),
    # Half of the units of a net with batch normalisation. The cut comes after half of training, as in the paper.
    "lenet300_slimming": Recipe(**{**_MASKS, "final_sparsity": 0.5}, model="mnist_mlp", technique="slimming"),
    # Half of the units, as for slimming. Group lasso takes the place of the weight decay of kernels.
    "lenet300_group_lasso": Recipe(
        **{**_MASKS, "kernel_l2": 0.0, "final_sparsity": 0.5},
        technique="magnitude",
        structure="channel",
        scope="global",
        group_lasso=5e-4,
    ),
    # Sparsity rises from the end of the first tenth of training to the last fifth.
    "lenet300_powerprop": Recipe(**_MASKS, technique="powerprop", begin_step=10 * 540, end_step=80 * 540),
    "lenet300_movement": Recipe(**_MASKS, technique="movement", begin_step=10 * 540, end_step=80 * 540),
    # The scores have ten times the rate of the weights. The penalty is divided by the number of examples, 60,000:
    # each of the three means weighs 17 in the loss.
    "lenet300_soft_movement": Recipe(
        technique="soft_movement",
        technique_options={"scores_initializer": -2.0},
        technique_rate=10.0,
        learning_rate=1e-3,
        lr_decay_from=0.5,
        penalty_weight=1e6,
        penalty_begin_epoch=2.0,
        penalty_end_epoch=8.0,
        epochs=60,
    ),
    "lenet300_sparse_momentum": Recipe(**_MASKS, technique="sparse_momentum"),
    "lenet300_snip": Recipe(**_MASKS, technique="snip"),
    # Eleven trainings of 20 epochs. The learning rate falls at the same fractions of a training as above.
    "lenet300_lottery": Recipe(
        **{**_MASKS, "lr_boundaries": (250 / 27, 500 / 27), "epochs": 20}, technique="lottery", rounds=10
    ),
    "lenet300_dsr": _DSR_ITSELF,
    "mnist_mlp_dense": Recipe(**_DSR, **_DSR_DECAY),
    "mnist_mlp_dsr": _DSR_ITSELF,
    "mnist_mlp_set": Recipe(
        **_DSR,
        **_DSR_DECAY,
        technique="set",
        final_sparsity=0.98,
        frequency=_DSR_PERIODS,
        end_step=_DSR_LAST_STEP,
        drop_fraction=0.1,
        decay="constant",
    ),
    "mnist_mlp_static": Recipe(**_DSR, **_DSR_DECAY, technique="static", final_sparsity=0.98),
    "mnist_mlp_deepr": Recipe(
        **_DSR, technique="deepr", technique_options={"l1": 1e-5}, final_sparsity=0.98, end_step=_DSR_LAST_STEP
    ),
    "mnist_mlp_hashed": Recipe(**_DSR, **_DSR_DECAY, technique="hashed", technique_options={"compression": 50.0}),
    "lenet5_dense": Recipe(model="lenet_5_caffe", epochs=30),
    # Their program's `--model lenet5`. The paper's table has densities from 0.004 to 0.093.
    "lenet5_sparse_momentum": Recipe(**_MASKS, model="lenet_5_caffe", technique="sparse_momentum"),
    # The paper has no shifts. An error of 0.78 % came with a compression of 175x without them, and with 289x with them
    # (docs/results.md).
    "lenet5_vd": Recipe(
        model="lenet_5_caffe",
        augment="shift",
        technique="vd",
        technique_options={**_VD, "log_alpha_threshold": 1.0},
        learning_rate=1.5e-3,
        lr_schedule="cosine",
        lr_decay_from=0.2,
        penalty_begin_epoch=1.0,
        penalty_end_epoch=8.0,
        epochs=200,
        batch_size=100,
    ),
    "lenet5_sbp": Recipe(**_SBP_LENET_5),
    # Without factors every unit costs the same, so the many inputs of the dense layers die and the filters live, which
    # cost nearly all operations. The factors follow SBPa, the authors' variant for VGG-like; the numbers are ours.
    "lenet5_sbpa": Recipe(**{**_SBP_LENET_5, "epochs": 30}, penalty_factors={"conv_1": 100.0, "conv_2": 20.0}),
    "lenet500_dense": Recipe(**_LENET_500_300, epochs=50),
    "lenet500_sbp": Recipe(**{**_SBP, "epochs": 200}, **_LENET_500_300),
    "demo": Recipe(
        dataset="mnist_demo",
        technique="vd",
        technique_options=_VD,
        kernel_initializer="normal:0.01",
        learning_rate=2e-3,
        lr_decay_from=0.5,
        # A weight of 1, the evidence lower bound for 4,000 digits, prunes too much: it gives an error of 6.5 % at 279x.
        # The weight 0.3 gives 5.7 % at 156x, and the dense net 6.2 %.
        penalty_weight=0.3,
        penalty_begin_epoch=10.0,
        penalty_end_epoch=60.0,
        epochs=150,
        batch_size=100,
    ),
}
