"""The probes: what each reads, its control, and what it does not show. One file a probe."""

from .attention_flow import AttentionFlow, attention_flow

__all__ = ["AttentionFlow", "attention_flow"]
