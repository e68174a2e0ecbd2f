"""Hand-written forward and backward pass of a stack: losses and gradients of a training step without autograd.

It computes what autograd computes for `GPT.forward` (tests check that they agree), but every array is allocated once, gradients
are written where the optimizer reads them, and residual additions are fused into the matmuls. On two cores this halves the step
time, most of which autograd spends allocating memory and passing over it. Rows are (sequence, position) pairs:
`[members, rows, width]`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.model.gpt import EPSILON, GPT, Block, LayerNorm, Linear, ModelConfig
from anchorbench.train.seams import ALIGNED

aten = torch.ops.aten


def aligned(shape: ModelConfig, batch: int, vocab_size: int, seq_len: int, *, bf16: bool = False) -> bool:
    """Whether the arrays of all members are equally aligned in every batched matmul of the step.

    The matmul library chooses its kernels, and hence its rounding, by the alignment of addresses. Where this is False, members of
    one batched matmul may round differently (measured for widths up to 39 with MKL), so `OneByOne` is needed. In bf16 the choice
    also depends on the number of matrices, unless widths and batch are multiples of 16.
    """
    widths = (shape.d_model, shape.n_head * shape.d_head, shape.d_ff)
    if bf16 and any(size % 16 for size in (*widths, batch)):
        return False
    weights = [shape.d_model * width for width in (*widths, vocab_size)]
    activations = [batch * rows * width for rows in (1, seq_len) for width in widths]
    patterns = [batch * shape.n_head * rows * seq_len for rows in (1, seq_len)]
    return all(size % ALIGNED == 0 for size in (*weights, *activations, *patterns, batch * vocab_size))


class Backprop:
    """Forward and backward pass of one stack at one batch size; calling it returns losses and fills `gradients`."""

    def __init__(self, model: GPT, batch: int, dtype: torch.dtype | None = None) -> None:
        """`dtype` is the dtype of activations and matmuls (default: that of the weights); weights are cast to it at each step."""
        first = next(model.parameters())
        self._wide, self._dtype = first.dtype, dtype or first.dtype
        self.model, self.batch, self.shape = model, batch, model.shape
        self.gradients = {
            parameter: torch.zeros_like(parameter, dtype=self._dtype, memory_format=torch.contiguous_format)
            for parameter in model.parameters()
        }
        self._rounded: dict[Tensor, Tensor] = {}
        if self._dtype != self._wide:
            self._rounded = {parameter: torch.empty_like(gradient) for parameter, gradient in self.gradients.items()}
        self._normalized: dict[LayerNorm, tuple[Tensor, Tensor, Tensor]] = {}
        """LayerNorm -> its output before gain and bias, and the mean and reciprocal standard deviation of each row."""
        self._buffers: dict[tuple[object, str], Tensor] = {}
        self._first_row = torch.arange(model.members, device=first.device).view(-1, 1, 1) * model.vocab_size
        self._mask = torch.full((model.seq_len, model.seq_len), -math.inf, device=first.device, dtype=self._dtype).triu(1)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"]) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `self.gradients`."""
        for parameter, rounded in self._rounded.items():
            rounded.copy_(parameter)
        x = self._embed(tokens)
        inputs: list[Tensor] = []
        for number, block in enumerate(self.model.layers, 1):
            inputs.append(x)
            x = self._block(block, x, last_only=number == len(self.model.layers))
        final = x if self.model.final_norm is None else self._norm(self.model.final_norm, x)
        logits = self._linear(self.model.unembedding, final)
        losses, gradient = self._cross_entropy(logits, labels)
        gradient = self._linear_back(self.model.unembedding, final, gradient)
        if self.model.final_norm is not None:
            gradient = self._norm_back(self.model.final_norm, x, gradient)
        for number, block in reversed(list(enumerate(self.model.layers, 1))):
            gradient = self._block_back(block, inputs.pop(), gradient, last_only=number == len(self.model.layers))
        self._embed_back(tokens, gradient)
        return losses

    @property
    def buffers(self) -> list[Tensor]:
        """All arrays allocated so far, except gradients."""
        return [*self._buffers.values(), *(array for arrays in self._normalized.values() for array in arrays)]

    def _buffer(self, owner: object, name: str, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """The array `name` of `owner`, allocated on first use."""
        key = (owner, name)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(size, device=self._mask.device, dtype=dtype or self._dtype)
        return self._buffers[key]

    def _value(self, parameter: Tensor) -> Tensor:
        """The parameter in the dtype of the matmuls."""
        return self._rounded.get(parameter, parameter)

    def _last(self, x: Tensor) -> Tensor:
        """Rows of the last position: a view `[members, batch, width]` of `[members, batch*seq, width]`."""
        return x.view(x.shape[0], self.batch, -1, x.shape[2])[:, :, -1]

    # Embedding and loss

    def _embed(self, tokens: Tensor) -> Tensor:
        model, d = self.model, self.shape.d_model
        table = self._buffer(model, "table", model.members, model.vocab_size, d).copy_(model.token_embedding)
        x = self._buffer(model, "x", *tokens.shape, d)
        torch.index_select(table.flatten(0, 1), 0, (tokens + self._first_row).flatten(), out=x.view(-1, d))
        return x.add_(self._value(model.position_embedding)[:, None]).view(model.members, -1, d)

    def _embed_back(self, tokens: Tensor, gradient: Tensor) -> None:
        model, d = self.model, self.shape.d_model
        torch.sum(gradient.view(*tokens.shape, d), 1, out=self.gradients[model.position_embedding])
        into = self.gradients[model.token_embedding].flatten(0, 1)
        wide = gradient.view(-1, d).to(self._wide)  # a sum of many rows would saturate in bf16
        if wide.is_cuda:  # on CUDA, the function below sorts
            which = wide.new_zeros(model.members, model.vocab_size, gradient.shape[1])
            which.scatter_(1, tokens.flatten(1)[:, None], 1.0)
            self.gradients[model.token_embedding].copy_(which @ wide.view(model.members, -1, d))
            return
        into.copy_(aten.embedding_dense_backward(wide, (tokens + self._first_row).flatten(), len(into), -1, False))

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self._buffer(self.model, "d_logits", *logits.shape, dtype=self._wide)
        torch.log_softmax(logits, -1, dtype=self._wide, out=gradient)
        losses = -gradient.gather(2, labels[..., None]).mean((1, 2))
        gradient.exp_().scatter_add_(2, labels[..., None], gradient.new_full((1, 1, 1), -1.0).expand(*labels.shape, 1))
        return losses, gradient.div_(self.batch).to(self._dtype)

    # Layers, in pairs: forward and backward

    def _linear(self, linear: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self._buffer(linear, "y", *x.shape[:2], linear.weight.shape[2])
        if residual is None:
            torch.bmm(x, self._value(linear.weight), out=y)
        else:
            torch.baddbmm(residual, x, self._value(linear.weight), out=y)
        return y if linear.bias is None else y.add_(self._value(linear.bias)[:, None])

    def _linear_back(self, linear: Linear, x: Tensor, dy: Tensor, add_to: Tensor | None = None) -> Tensor:
        """Fills the layer's gradients; returns the gradient of its input, accumulated into `add_to` if given."""
        torch.bmm(x.transpose(1, 2), dy, out=self.gradients[linear.weight])
        if linear.bias is not None:
            torch.sum(dy, 1, out=self.gradients[linear.bias])
        back = self._value(linear.weight).transpose(1, 2)
        if add_to is not None:
            return add_to.baddbmm_(dy, back)
        return torch.bmm(dy, back, out=self._buffer(linear, "dx", *x.shape))

    def _norm(self, norm: LayerNorm, x: Tensor) -> Tensor:
        self._normalized[norm] = plain, _, _ = torch.native_layer_norm(x, x.shape[-1:], None, None, EPSILON)
        return torch.addcmul(
            self._value(norm.bias)[:, None], plain, self._value(norm.weight)[:, None], out=self._buffer(norm, "y", *x.shape)
        )

    def _norm_back(self, norm: LayerNorm, x: Tensor, dy: Tensor) -> Tensor:
        plain, mean, scale = self._normalized[norm]
        torch.sum(dy, 1, out=self.gradients[norm.bias])
        product = torch.mul(dy, plain, out=self._buffer(norm, "product", *x.shape))
        torch.sum(product, 1, out=self.gradients[norm.weight])
        torch.mul(dy, self._value(norm.weight)[:, None], out=product)
        return aten.native_layer_norm_backward(product, x, x.shape[-1:], mean, scale, None, None, [True, False, False])[0]

    def _activation(self, block: Block, x: Tensor) -> Tensor:
        y = self._buffer(block, "activated", *x.shape)
        return aten.gelu.out(x, out=y) if self.shape.activation == "gelu" else torch.clamp_min(x, 0, out=y)

    def _activation_back(self, x: Tensor, dy: Tensor) -> Tensor:
        if self.shape.activation == "gelu":
            return aten.gelu_backward.grad_input(dy, x, grad_input=dy)
        return aten.threshold_backward.grad_input(dy, x, 0, grad_input=dy)

    # Attention

    def _heads(self, x: Tensor) -> Tensor:
        """`[members, batch*length, head*d_head]` -> `[members*batch*head, length, d_head]`; a view if there is one head."""
        parts = x.view(x.shape[0] * self.batch, -1, self.shape.n_head, self.shape.d_head)
        return parts.transpose(1, 2).reshape(-1, parts.shape[1], self.shape.d_head)

    def _rows(self, x: Tensor) -> Tensor:
        """The inverse of `_heads`."""
        parts = x.view(self.model.members * self.batch, self.shape.n_head, -1, self.shape.d_head).transpose(1, 2)
        return parts.reshape(self.model.members, -1, self.shape.n_head * self.shape.d_head)

    def _attention(self, block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = self._heads(query), self._heads(key), self._heads(value)
        pattern = self._buffer(block, "pattern", len(query), query.shape[1], key.shape[1])
        mask = self._mask[-query.shape[1] :]
        torch.baddbmm(mask, query, key.transpose(1, 2), alpha=1 / math.sqrt(self.shape.d_head), out=pattern)
        torch.softmax(pattern, -1, out=pattern)
        return self._rows(torch.bmm(pattern, value, out=self._buffer(block, "mixed", *query.shape)))

    def _attention_back(
        self, block: Block, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, gradient = self._heads(query), self._heads(key), self._heads(value), self._heads(gradient)
        pattern = self._buffer(block, "pattern", len(query), query.shape[1], key.shape[1])
        d_value = torch.bmm(pattern.transpose(1, 2), gradient, out=self._buffer(block, "d_value", *value.shape))
        d_pattern = torch.bmm(gradient, value.transpose(1, 2), out=self._buffer(block, "d_pattern", *pattern.shape))
        d_scores = aten._softmax_backward_data(d_pattern, pattern, -1, self._dtype).mul_(1 / math.sqrt(self.shape.d_head))
        d_query = torch.bmm(d_scores, key, out=self._buffer(block, "d_query", *query.shape))
        d_key = torch.bmm(d_scores.transpose(1, 2), query, out=self._buffer(block, "d_key", *key.shape))
        return self._rows(d_query), self._rows(d_key), self._rows(d_value)

    # Blocks

    def _block(self, block: Block, x: Tensor, *, last_only: bool) -> Tensor:
        pre = self.shape.norm == "pre"
        attended, source, stream = self._block_inputs(block, x, last_only=last_only, again=False)
        mixed = self._attention(
            block, self._linear(block.query, attended), self._linear(block.key, source), self._linear(block.value, source)
        )
        self._buffers[block, "mixed_rows"] = mixed
        x = self._linear(block.output, mixed, residual=stream)
        x = self._feed_forward_input(block, x, again=False)
        hidden = self._activation(block, self._linear(block.ff_in, x))
        if pre:
            return self._linear(block.ff_out, hidden, residual=self._buffers[block.output, "y"])
        return self._norm(block.norm_2, self._linear(block.ff_out, hidden, residual=x))

    def _block_inputs(self, block: Block, x: Tensor, *, last_only: bool, again: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Input of the queries, input of keys and values, and the residual stream to add attention to; `again` reuses buffers."""
        attended = x
        if self.shape.norm == "pre":
            attended = self._buffers[block.norm_1, "y"] if again else self._norm(block.norm_1, x)
        source = x if self.shape.query_norm_only else attended
        return (self._last(attended).contiguous(), source, self._last(x)) if last_only else (attended, source, x)

    def _feed_forward_input(self, block: Block, x: Tensor, *, again: bool) -> Tensor:
        norm = block.norm_2 if self.shape.norm == "pre" else block.norm_1
        return self._buffers[norm, "y"] if again else self._norm(norm, x)

    def _block_back(self, block: Block, x: Tensor, gradient: Tensor, *, last_only: bool) -> Tensor:
        pre = self.shape.norm == "pre"
        attended, source, _ = self._block_inputs(block, x, last_only=last_only, again=True)
        after_attention = self._buffers[block.output, "y"]
        fed = self._feed_forward_input(block, after_attention, again=True)
        hidden_in = self._buffers[block.ff_in, "y"]

        if not pre:
            gradient = self._norm_back(block.norm_2, self._buffers[block.ff_out, "y"], gradient)
        d_hidden = self._linear_back(block.ff_out, self._buffers[block, "activated"], gradient)
        d_hidden = self._activation_back(hidden_in, d_hidden)
        if pre:
            d_stream = self._norm_back(block.norm_2, after_attention, self._linear_back(block.ff_in, fed, d_hidden)).add_(gradient)
        else:
            d_stream = self._norm_back(
                block.norm_1, after_attention, self._linear_back(block.ff_in, fed, d_hidden, add_to=gradient)
            )

        d_mixed = self._linear_back(block.output, self._buffers[block, "mixed_rows"], d_stream)
        query, key, value = (self._buffers[linear, "y"] for linear in (block.query, block.key, block.value))
        d_query, d_key, d_value = self._attention_back(block, query, key, value, d_mixed)
        d_source = self._linear_back(block.key, source, d_key)
        self._linear_back(block.value, source, d_value, add_to=d_source)
        apart = last_only or self.shape.query_norm_only
        d_attended = self._linear_back(block.query, attended, d_query, add_to=None if apart else d_source)
        if not pre:
            if last_only:
                self._last(d_source).add_(d_attended).add_(d_stream)
                return d_source
            return d_source.add_(d_stream)
        d_direct = None
        if self.shape.query_norm_only:
            d_direct = d_source
            d_source = self._buffer(block, "d_attended", *x.shape).zero_() if last_only else d_attended
        if last_only:
            self._last(d_source).add_(d_attended)
        d_x = self._norm_back(block.norm_1, x, d_source)
        (self._last(d_x) if last_only else d_x).add_(d_stream)
        return d_x if d_direct is None else d_x.add_(d_direct)


class OneByOne:
    """Gradient path that runs one member at a time in shared arrays: each is trained as if alone, whatever its widths."""

    def __init__(self, model: GPT, path: Callable[[GPT], Any]) -> None:
        """`path` builds the gradient path of a stack of one."""
        self.model = model
        self._alone = model.like(members=1).to(model.token_embedding)
        self._path = path(self._alone)
        self.gradients = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"]) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `self.gradients`."""
        losses: list[Tensor] = []
        for member in range(self.model.members):
            self._alone.load_member(self.model, member)
            losses.append(self._path(tokens[member : member + 1], labels[member : member + 1]))
            for parameter, alone in zip(self.model.parameters(), self._alone.parameters(), strict=True):
                self.gradients[parameter][member] = self._path.gradients[alone][0]
        return torch.cat(losses)
