"""Records the tensors and the linears of tiny models of several families, as transformers (5.24) names them.

    python make_linears.py ../recorded/linears.json

Linears are the modules that PEFT's `all-linear` adapts: `torch.nn.Linear` and `Conv1D`, the head apart.
"""

import json
import sys
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

SIZES = dict(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=32)
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=8)
LATENT = dict(q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=6)
CASES = {
    "deepseek_v3": dict(**EXPERTS, **LATENT, n_routed_experts=4, n_shared_experts=1, n_group=2, topk_group=1,
                        first_k_dense_replace=1),
    "deepseek_v2": dict(**EXPERTS, **{**LATENT, "q_lora_rank": None}, n_routed_experts=4, n_shared_experts=1,
                        first_k_dense_replace=1),
    "qwen2_moe": dict(**EXPERTS, num_experts=4, shared_expert_intermediate_size=12, mlp_only_layers=[0]),
    "granitemoeshared": dict(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=12),
    "hunyuan_v1_moe": dict(num_experts=4, moe_topk=2),
    "lfm2": dict(layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "phi3": dict(pad_token_id=0, tie_word_embeddings=True),
    "phi": dict(),
    "gpt2": dict(n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=32),
}

recorded = {}
for family, changes in CASES.items():
    keys = {**SIZES, **changes} if family != "gpt2" else {"vocab_size": 24, **changes}
    config = AutoConfig.for_model(family, **keys)
    model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears = {
        name: list(module.weight.shape)[:: -1 if isinstance(module, Conv1D) else 1]
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    with tempfile.TemporaryDirectory() as folder:
        # Files name some tensors otherwise than models in memory.
        model.save_pretrained(folder)
        with safe_open(f"{folder}/model.safetensors", "pt") as file:
            tensors = {name: file.get_slice(name).get_shape() for name in file.keys()}
    keys = {"model_type": family, **keys, "tie_word_embeddings": config.tie_word_embeddings}
    recorded[family] = {"config": keys, "tensors": tensors, "linears": linears}

with open(sys.argv[1], "w") as file:
    file.write("{" + ",\n".join(f'"{family}": {json.dumps(case)}' for family, case in recorded.items()) + "}\n")
