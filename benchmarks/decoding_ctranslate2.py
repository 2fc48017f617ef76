"""CTranslate2's side of `decoding.py`; run by the Python of its own environment, which has numpy and nothing of ours.

    python decoding_ctranslate2.py WEIGHTS.npz QUANTISATION LAYERS HEADS

Answers lines "requests context tokens" with the seconds of one step.
"""

from __future__ import annotations

import sys
import tempfile
import time

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec


def specification(
    weights: dict[str, np.ndarray], layers: int, heads: int
) -> transformer_spec.TransformerDecoderModelSpec:
    """The LLaMA shape in CTranslate2's words."""
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        layers, heads, activation=common_spec.Activation.SWISH, ffn_glu=True, rms_norm=True,
        rotary_dim=0, rotary_interleave=False, rotary_base=10000,
    )  # fmt: skip
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["model.embed_tokens.weight"]
    decoder.layer_norm.gamma = weights["model.norm.weight"]
    decoder.projection.weight = weights["lm_head.weight"]
    for i, layer in enumerate(decoder.layer):
        own = {
            n.removeprefix(f"model.layers.{i}."): w for n, w in weights.items() if n.startswith(f"model.layers.{i}.")
        }
        layer.self_attention.layer_norm.gamma = own["input_layernorm.weight"]
        layer.ffn.layer_norm.gamma = own["post_attention_layernorm.weight"]
        parts = [own[f"self_attn.{part}_proj.weight"] for part in "qkv"]
        layer.self_attention.linear[0].weight = np.concatenate(parts)
        layer.self_attention.linear[1].weight = own["self_attn.o_proj.weight"]
        layer.ffn.linear_0.weight = own["mlp.gate_proj.weight"]
        layer.ffn.linear_0_noact.weight = own["mlp.up_proj.weight"]
        layer.ffn.linear_1.weight = own["mlp.down_proj.weight"]
    spec.register_vocabulary([f"<{i}>" for i in range(len(weights["lm_head.weight"]))])
    spec.config.unk_token = spec.config.bos_token = "<0>"
    spec.config.eos_token = "<2>"
    spec.config.layer_norm_epsilon = 1e-6
    return spec


def main() -> None:
    path, quantisation, layers, heads = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        with np.load(path) as file:
            spec = specification(dict(file), int(layers), int(heads))
        spec.validate()
        spec.optimize(quantization=quantisation)
        spec.save(folder)
        generator = ctranslate2.Generator(folder, compute_type=quantisation, inter_threads=1, intra_threads=1)
    print("ready", flush=True)
    for line in sys.stdin:
        requests, context, tokens = map(int, line.split())
        prompts, seconds = [[f"<{i + 3}>" for i in range(context)]] * requests, []
        for count in (1, tokens + 1):
            began = time.process_time()
            made = generator.generate_batch(
                prompts, max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False
            )
            seconds.append(time.process_time() - began)
            assert all(len(result.sequences_ids[0]) == count for result in made)
        print((seconds[1] - seconds[0]) / tokens, flush=True)


if __name__ == "__main__":
    main()
