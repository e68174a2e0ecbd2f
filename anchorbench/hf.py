"""The architecture of the first GPT (post-LN) with exact GELU or ReLU, any feed-forward width, and an optional output bias.

`import anchorbench.hf` registers the architecture with transformers; checkpoints contain no code.
"""

from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.pytorch_utils import Conv1D


class AnchorGPTConfig(OpenAIGPTConfig):
    """The first GPT's config, extended by feed-forward width, activation and output bias."""

    model_type = "anchor-gpt"

    def __init__(self, n_inner: int = 256, activation_function: str = "gelu", unembed_bias: bool = False, **kwargs: Any) -> None:
        self.n_inner, self.activation_function, self.unembed_bias = n_inner, activation_function, unembed_bias
        super().__init__(**kwargs)


class AnchorGPTForCausalLM(OpenAIGPTLMHeadModel):
    """The first GPT, with the config's activation and output bias."""

    config_class = AnchorGPTConfig

    def __init__(self, config: AnchorGPTConfig) -> None:
        super().__init__(config)
        block: Any
        for block in self.transformer.h:
            block.mlp.c_fc = Conv1D(config.n_inner, config.n_embd)
            block.mlp.c_proj = Conv1D(config.n_embd, config.n_inner)
            block.mlp.act = nn.GELU() if config.activation_function == "gelu" else nn.ReLU()
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=config.unembed_bias)
        self.post_init()


AutoConfig.register("anchor-gpt", AnchorGPTConfig, exist_ok=True)
AutoModelForCausalLM.register(AnchorGPTConfig, AnchorGPTForCausalLM, exist_ok=True)
