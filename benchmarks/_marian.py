"""Beam search of Hugging Face `transformers` on PyTorch: the sub-process of `decoding.py`, in its own environment.

A MarianMT model with random weights, of the size of our Transformer, translates random sentences. For each request on
standard input the program translates once and prints one JSON line, so that both sides take turns in one run.

    python benchmarks/_marian.py --batch=8 --source=16 --length=64 ...
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers


def main():
    parser = argparse.ArgumentParser()
    for name in ("vocabulary", "layers", "hidden", "filter", "heads", "batch", "source", "length", "beams", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=arguments.vocabulary,
        d_model=arguments.hidden,
        encoder_layers=arguments.layers,
        decoder_layers=arguments.layers,
        encoder_attention_heads=arguments.heads,
        decoder_attention_heads=arguments.heads,
        encoder_ffn_dim=arguments.filter,
        decoder_ffn_dim=arguments.filter,
        max_position_embeddings=512,
        activation_function="relu",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        forced_eos_token_id=None,
        decoder_start_token_id=0,
    )
    model = transformers.MarianMTModel(config).eval()
    inputs = torch.randint(2, arguments.vocabulary, (arguments.batch, arguments.source))
    inputs[:, -1] = 1
    mask = torch.ones_like(inputs)

    def translate():
        with torch.inference_mode():
            # All sentences get exactly `length` tokens, so that the work does not depend on the random weights.
            return model.generate(
                inputs,
                attention_mask=mask,
                num_beams=arguments.beams,
                do_sample=False,
                min_new_tokens=arguments.length,
                max_new_tokens=arguments.length,
                length_penalty=0.6,
                early_stopping=False,
            )

    shape = list(translate().shape)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads(), "shape": shape}), flush=True)
    for _ in sys.stdin:
        begin, processor = time.perf_counter(), time.process_time()
        translate()
        seconds = {"wall": time.perf_counter() - begin, "processor": time.process_time() - processor}
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
