"""Tiny models of many architectures, built from transformers' own configurations: 2 layers, 2 heads, width 16."""

from typing import Any

import torch
import transformers

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 120}
COMMON = {"vocab_size": 120, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
KV = {"num_key_value_heads": 1}
HEAD = {"head_dim": 8}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 120}

MOE = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
FFN = {"ffn_dim": 32, "max_position_embeddings": 16}

ZOO: dict[str, dict[str, Any]] = {
    "GPT2": GPT,
    "OpenAIGPT": GPT,
    "GPTNeo": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "GPTNeoX": SIZE,
    "GPTJ": GPT | {"rotary_dim": 4},
    "GPTBigCode": GPT,
    "CodeGen": GPT | {"n_head": 4, "rotary_dim": 4},
    "Llama": SIZE | KV,
    "Mistral": SIZE | KV,
    "Ministral": SIZE | KV | HEAD,
    "Mixtral": SIZE | KV | {"num_local_experts": 2},
    "Qwen2": SIZE | KV,
    "Qwen2Moe": SIZE
    | KV
    | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "Qwen3": SIZE | KV | HEAD,
    "Qwen3Moe": SIZE | KV | HEAD | MOE,
    "Gemma": SIZE | KV | HEAD,
    "Gemma2": SIZE | KV | HEAD,
    "Phi": SIZE,
    "Phi3": SIZE | KV,
    "OPT": {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 16,
    },
    "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "Falcon": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "Mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 16, "expansion_ratio": 2},
    "StableLm": SIZE | {"num_key_value_heads": 2},
    "Persimmon": SIZE,
    "Cohere": SIZE | KV,
    "Cohere2": SIZE | KV,
    "Olmo": SIZE | KV,
    "Olmo2": SIZE | KV,
    "Olmo3": SIZE | KV,
    "Granite": SIZE | KV,
    "Starcoder2": SIZE | KV,
    "Glm": SIZE | KV | HEAD,
    "Glm4": SIZE | KV | HEAD,
    "Helium": SIZE | KV | HEAD,
    "Nemotron": SIZE | KV,
    "SmolLM3": SIZE | KV,
    "Arcee": SIZE | KV,
    "Ernie4_5": SIZE | KV | HEAD,
    "SeedOss": SIZE | KV | HEAD,
    "Apertus": SIZE | KV,
    "Exaone4": SIZE | KV,
    "HunYuanDenseV1": SIZE | KV | HEAD,
    "NanoChat": SIZE | KV,
    "DiffLlama": SIZE | {"num_key_value_heads": 2},
    "BioGpt": SIZE | {"max_position_embeddings": 16},
    "XGLM": FFN | {"d_model": 16, "num_layers": 2, "attention_heads": 2},
    "CTRL": {"n_embd": 16, "dff": 32, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "Mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "Bert": SIZE | {"is_decoder": True, "max_position_embeddings": 16},
}
CLASSES = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel", "CTRL": "CTRLLMHeadModel", "Bert": "BertLMHeadModel"}
UNREAD = ("BioGpt", "CTRL", "DiffLlama", "Helium", "Mamba", "Ministral", "Persimmon")
"""Answers are read, but TransformerLens cannot show the inside."""


def make(name: str) -> Any:
    """The model `name` of the zoo with random weights of visible size."""
    config = getattr(transformers, f"{name}Config")(**COMMON | ZOO[name])
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model
