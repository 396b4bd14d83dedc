"""The 20 result tables of State of Sparsity, small: the original headers, and one or two lines in their form."""

RAMP = "begin,end,freq,label smoothing"
RUNS = ",".join(f"Run {number}" for number in range(1, 10))
ENDING = "begin_pruning_step,end_pruning_step,pruning_frequency,regularization,threshold_decay"
MASKED = f"Tensor2Tensor HParams,MOSES BLEU,Sparsity,{ENDING}"
PAIRS = ",".join(f"MOSES BLEU:{half / 2},Sparsity:{half / 2}" for half in range(11))
L0_RAMP = "l0_norm_weight,l0_norm_weight_fn,dkl_weight_start,dkl_weight_diff,regularization"
NINE = "0.746280014515,0.748440027237,0.746299982071,0.745360016823,0.746760010719,0.747319996357,0.746680021286"
NINE += ",0.74739998579,0.746439993382"
MP = "sparse_transformer_magnitude_pruning"

RESNET_COMPARED, RESNET_SCRATCH = "sparse_rn50/technique_comparison/", "sparse_rn50/scratch_lotto/"
COMPARED, SCRATCH = "sparse_transformer/technique_comparison/", "sparse_transformer/scratch_lotto/"

# File -> its lines, the header first.
TABLES = {
    f"{RESNET_COMPARED}rn50_baselines.csv": ["Accuracy,Training Steps,Batch Size", "76.67,128000,1024"],
    f"{RESNET_COMPARED}rn50_magnitude_pruning.csv": [
        f"Sparsity,{RAMP},accuracy",
        "0.98,40000,100000,2000,0.1,0.578999996185",
    ],
    f"{RESNET_COMPARED}rn50_random_pruning.csv": [
        f"Target Sparsity,{RAMP},accuracy",
        "0.9,0,40000,2000,0,0.650039970875",
    ],
    f"{RESNET_COMPARED}rn50_variational_dropout.csv": [
        "DKL loss begin,DKL loss saturate,DKL loss coeff,label_smoothing,global sparsity,Accuracy",
        "20000,68000,7.80538368534e-8,0,0.902656316757,0.738420009613",
    ],
    f"{RESNET_COMPARED}rn50_l0_regularization.csv": [
        "initial_log_alpha,l0_norm_weight,label_smoothing,weight_decay,global_sparsity,accuracy",
        "2.197,0.0003122153474,0.0001111136067,0,0,0.4050399959",
        "4.6,0.003278261148,0,0.1,0.2199723721,0.005319999997",
    ],
    f"{RESNET_SCRATCH}rn50_lottery_ticket.csv": [
        f"{RAMP},sparsity,accuracy",
        "40000,76000,2000,0.1,0.9,0.675220012665",
    ],
    f"{RESNET_SCRATCH}rn50_scratch_lr_scaled.csv": [
        f"sparsity,time multiplier,init method,{RAMP},{RUNS}",
        f"0.5,1,baseline,40000,100000,2000,0.1,{NINE}",
    ],
    f"{RESNET_SCRATCH}rn50_scratch_lr_constant_final.csv": [
        f"sparsity,time multiplier,init method,{RAMP},{RUNS}",
        f"0.5,2,sparse,40000,100000,2000,0.1,{NINE}",
    ],
    f"{RESNET_SCRATCH}rn50_scratch_lr_constant_decay.csv": [
        f"sparsity,time multiplier,,{RAMP},accuracy",
        "0.98,2,baseline,20000,40000,8000,0,0.4815399945",
    ],
    f"{RESNET_SCRATCH}rn50_scratch_lr_continual_decay.csv": [
        f"sparsity,time multiplier,init method,{RAMP},accuracy",
        "0.5,2,sparse,20000,40000,4000,0.1,0.7145199776",
    ],
    f"{COMPARED}transformer_baselines.csv": [
        "Tensor2Tensor HParams,MOSES BLEU,Training Steps,Batch Size,Dataset",
        "transformer_base,27.52,500000,2048,translate_ende_wmt32k_packed",
    ],
    f"{COMPARED}transformer_magnitude_pruning.csv": [
        f"Tensor2Tensor HParams,Moses BLEU,Sparsity,{ENDING}",
        f"{MP},25.86,0.5,0,500000,1000,dropout+label_smoothing,0",
        f"{MP},16.05,0.980001270771,0,300000,10000,none,0",
    ],
    f"{COMPARED}transformer_random_pruning.csv": [
        f"Tensor2Tensor HParams,Moses BLEU,Sparsity,{ENDING}",
        "sparse_transformer_random_pruning,24.56,0.5,200000,500000,1000,label_smoothing,0",
    ],
    f"{COMPARED}transformer_variational_dropout.csv": [
        f"Tensor2Tensor Hparams,dkl_weight,dkl_weight_fn,dkl_weight_start,dkl_weight_diff,regularization,{PAIRS}",
        "sparse_transformer_variational_dropout,8.88888888889e-8,cubic,0,500000,none,0.06,0.947515308857,0.09,"
        "0.941599309444,0.93,0.934160768986,15.8,0.922844529152,21.4,0.903911173344,22.47,0.873248279095,22.76,"
        "0.825483560562,22.89,0.754500031471,22.96,0.665271341801,22.96,0.577972710133,22.97,0.501355111599",
    ],
    f"{COMPARED}transformer_l0_regularization.csv": [
        f"Tensor2Tensor HParams,MOSES BLEU,Sparsity,{L0_RAMP}",
        "sparse_transformer_l0_regularization,20.85,0.921240866184,0.000002222222222222222,cubic,100000,300000,"
        "label_smoothing",
    ],
    f"{SCRATCH}transformer_lottery_ticket.csv": [
        f"HParams,MOSES BLEU,Sparsity,{ENDING}",
        f"{MP},24.35,0.5,100000,400000,10000,dropout+label_smoothing,0",
        f"{MP},24.61,0.5,100000,400000,10000,dropout+label_smoothing,0",
    ],
    f"{SCRATCH}transformer_scratche.csv": [MASKED, f"{MP},13.93,0.980001270771,0,300000,1000,none,0"],
    f"{SCRATCH}transformer_scratche_augmented_init.csv": [MASKED, f"{MP},24.09,0.5,100000,400000,10000,none,0"],
    f"{SCRATCH}transformer_scratchb.csv": [MASKED, f"{MP},26.11,0.5,100000,400000,10000,none,0"],
    f"{SCRATCH}transformer_scratchb_augmented_init.csv": [MASKED, f"{MP},24.45,0.5,100000,400000,10000,none,0"],
}


def write_clone(folder, tables=TABLES, end="\n"):
    """Writes the tables below `state_of_sparsity/results` in a folder, beside other files of the repository."""
    results = folder / "state_of_sparsity" / "results"
    for name, lines in tables.items():
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some of the originals have no last line end.
        path.write_bytes(end.join(lines).encode() + end.encode() * (len(name) % 2))
    (results / "README.md").write_text("The results.\n")
    other = folder / "another_project" / "results"
    other.mkdir(parents=True)
    (other / "results.csv").write_text("a,b\n1,2\n")
    return folder
