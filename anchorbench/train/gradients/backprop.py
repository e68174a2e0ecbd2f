"""Hand-written forward and backward pass of a stack: losses and gradients of a training step without autograd.

It computes what autograd computes for `GPT.forward` (tests check that they agree), but every array is allocated once, gradients
are written where the optimizer reads them, and residual additions are fused into the matmuls. On two cores this halves the step
time, most of which autograd spends allocating memory and passing over it. Rows are (sequence, position) pairs:
`[members, rows, width]`.

Two savings change nothing but rounding. The last layer answers one position, so its keys and values are never formed. And what the
first layer computes from token and position alone is computed once per pair of them, where batches are large: see `by_pair`.
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
    if bf16 and any(size % 16 for size in (*widths, shape.d_head, batch)):
        return False
    # The last layer's arrays `[batch, head, d_model]` and the tables of `padded` rows have sizes that are multiples of these.
    weights = [shape.d_model * width for width in (*widths, vocab_size)]
    activations = [batch * rows * width for rows in (1, seq_len) for width in widths]
    patterns = [batch * shape.n_head * rows * seq_len for rows in (1, seq_len)]
    return all(size % ALIGNED == 0 for size in (*weights, *activations, *patterns, batch * vocab_size))


def by_pair(shape: ModelConfig, batch: int, vocab_size: int) -> bool:
    """Whether the first layer computes queries, keys and values of all (position, token) pairs, from which the batch's rows are
    gathered: where there are at most half as many pairs as rows. A model of one layer forms no keys and values.
    """
    return shape.n_layer > 1 and 2 * padded(vocab_size) <= batch


def padded(vocab_size: int) -> int:
    """Rows of a table of tokens, with padding that aligns the tables of all members equally at any width."""
    return -(-vocab_size // ALIGNED) * ALIGNED


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
        # Not on CUDA, where sums by row of a table cost MACs in proportion to its rows: see `_gather_back`.
        self._by_pair = by_pair(model.shape, batch, model.vocab_size) and not first.is_cuda
        tokens, positions = padded(model.vocab_size), torch.arange(model.seq_len, device=first.device)
        self._table_rows = tokens * model.seq_len if self._by_pair else tokens
        """Rows of a member's table, of (position, token) pairs or of tokens."""
        table = torch.arange(model.members, device=first.device).view(-1, 1, 1) * self._table_rows
        self._first_row = table + positions * tokens if self._by_pair else table
        """The row of token 0, `[members, 1, seq or 1]`, in the tables of all members, one below the other."""
        self._at = self._first_row
        """The row of these tables that each row of the batch reads."""
        self._mask = torch.full((model.seq_len, model.seq_len), -math.inf, device=first.device, dtype=self._dtype).triu(1)

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"]) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `self.gradients`."""
        for parameter, rounded in self._rounded.items():
            rounded.copy_(parameter)
        self._at = (tokens + self._first_row).flatten()
        x = self._embed()
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
        self._embed_back(gradient)
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

    def _embed(self) -> Tensor:
        """Input of the first layer: the batch's rows, or all pairs, `[members, positions * padded tokens, d_model]`."""
        model, d = self.model, self.shape.d_model
        table = self._buffer(model, "table", model.members, padded(model.vocab_size), d)
        table[:, : model.vocab_size].copy_(model.token_embedding)
        table[:, model.vocab_size :].zero_()
        position = self._value(model.position_embedding)
        if self._by_pair:
            pairs = self._buffer(model, "pairs", model.members, model.seq_len, table.shape[1], d)
            return torch.add(table[:, None], position[:, :, None], out=pairs).flatten(1, 2)
        x = self._gather(model, table)
        x.view(model.members, -1, model.seq_len, d).add_(position[:, None])
        return x

    def _embed_back(self, gradient: Tensor) -> None:
        model, d = self.model, self.shape.d_model
        token, position = self.gradients[model.token_embedding], self.gradients[model.position_embedding]
        if self._by_pair:
            pairs = gradient.view(model.members, model.seq_len, -1, d)
            torch.sum(pairs, 2, out=position)
            torch.sum(pairs[:, :, : model.vocab_size], 1, out=token)
        else:
            torch.sum(gradient.view(model.members, -1, model.seq_len, d), 1, out=position)
            token.copy_(self._gather_back(gradient)[:, : model.vocab_size])

    def _gather(self, owner: object, table: Tensor) -> Tensor:
        """`[members, table rows, width]` -> the batch's rows of it, `[members, rows, width]`."""
        y = self._buffer(owner, "gathered", table.shape[0], self.batch * self.model.seq_len, table.shape[2])
        torch.index_select(table.flatten(0, 1), 0, self._at, out=y.flatten(0, 1))
        return y

    def _gather_back(self, gradient: Tensor) -> Tensor:
        """`[members, rows, width]` -> sums over the rows that read the same row of the table, `[members, table rows, width]`."""
        members, rows, width = gradient.shape
        wide = gradient.to(self._wide)  # a sum of many rows would saturate in bf16
        if wide.is_cuda:  # on CUDA, the function below sorts
            which = wide.new_zeros(members, self._table_rows, rows)
            which.scatter_(1, self._at.view(members, 1, rows) % self._table_rows, 1.0)
            return (which @ wide).to(self._dtype)
        table = aten.embedding_dense_backward(wide.flatten(0, 1), self._at, members * self._table_rows, -1, False)
        return table.to(self._dtype).view(members, -1, width)

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
        torch.baddbmm(self._mask, query, key.transpose(1, 2), alpha=1 / math.sqrt(self.shape.d_head), out=pattern)
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

    # Attention of the last layer, in which one position asks: score_j = (W_k q) . x_j, and the mixed x goes through W_v once

    def _by_head(self, x: Tensor) -> Tensor:
        """`[members, rows, head*d_head]` -> `[members, rows, head, d_head]`, a view."""
        return x.unflatten(2, (self.shape.n_head, self.shape.d_head))

    def _last_attention(self, block: Block, query: Tensor, source: Tensor) -> Tensor:
        """Equals `_attention` on keys and values of `source`; the bias on keys adds the same to all scores and cancels."""
        members, head, d = self.model.members, self.shape.n_head, self.shape.d_model
        x = source.view(members * self.batch, -1, d)
        probe = torch.einsum("mbhe,mdhe->mbhd", self._by_head(query), self._by_head(self._value(block.key.weight)))
        self._buffers[block, "probe"] = probe = probe.reshape(-1, head, d)
        pattern = self._buffer(block, "pattern", len(x), head, x.shape[1])
        torch.baddbmm(self._mask[-1:], probe, x.transpose(1, 2), alpha=1 / math.sqrt(self.shape.d_head), out=pattern)
        torch.softmax(pattern, -1, out=pattern)
        mixed = torch.bmm(pattern, x, out=self._buffer(block, "mixed", len(x), head, d)).view(members, -1, head, d)
        y = torch.einsum("mbhd,mdhe->mbhe", mixed, self._by_head(self._value(block.value.weight))).flatten(2)
        return y if block.value.bias is None else y.add_(self._value(block.value.bias)[:, None])

    def _last_attention_back(self, block: Block, query: Tensor, source: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Fills the gradients of keys' and values' maps; returns those of `query` and `source`. That of a bias on keys stays 0."""
        members, head, d = self.model.members, self.shape.n_head, self.shape.d_model
        x = source.view(members * self.batch, -1, d)
        probe, pattern, mixed = (self._buffers[block, name] for name in ("probe", "pattern", "mixed"))
        to_key, to_value = (self._by_head(self._value(linear.weight)) for linear in (block.key, block.value))

        if block.value.bias is not None:
            torch.sum(gradient, 1, out=self.gradients[block.value.bias])
        gradient = self._by_head(gradient)
        d_value = torch.einsum("mbhd,mbhe->mdhe", mixed.view(members, -1, head, d), gradient)
        self.gradients[block.value.weight].copy_(d_value.flatten(2))
        d_mixed = torch.einsum("mbhe,mdhe->mbhd", gradient, to_value).reshape(-1, head, d)

        d_pattern = torch.bmm(d_mixed, x.transpose(1, 2), out=self._buffer(block, "d_pattern", *pattern.shape))
        d_scores = aten._softmax_backward_data(d_pattern, pattern, -1, self._dtype).mul_(1 / math.sqrt(self.shape.d_head))
        d_x = torch.bmm(pattern.transpose(1, 2), d_mixed, out=self._buffer(block, "d_source", *x.shape))
        d_x.baddbmm_(d_scores.transpose(1, 2), probe)
        d_probe = torch.bmm(d_scores, x).view(members, -1, head, d)
        self.gradients[block.key.weight].copy_(torch.einsum("mbhd,mbhe->mdhe", d_probe, self._by_head(query)).flatten(2))
        return torch.einsum("mbhd,mdhe->mbhe", d_probe, to_key).flatten(2), d_x.view_as(source)

    # Blocks

    def _block(self, block: Block, x: Tensor, *, last_only: bool) -> Tensor:
        pre = self.shape.norm == "pre"
        attended, source, stream = self._block_inputs(block, x, last_only=last_only, again=False)
        query = self._linear(block.query, attended)
        if last_only:
            mixed = self._last_attention(block, query, source)
        else:
            key, value = self._linear(block.key, source), self._linear(block.value, source)
            if self._reads_pairs(block):
                maps = (block.query, block.key, block.value)
                query, key, value = (self._gather(linear, table) for linear, table in zip(maps, (query, key, value), strict=True))
                stream = self._gather(block, stream)
            mixed = self._attention(block, query, key, value)
        self._buffers[block, "mixed_rows"] = mixed
        x = self._linear(block.output, mixed, residual=stream)
        x = self._feed_forward_input(block, x, again=False)
        hidden = self._activation(block, self._linear(block.ff_in, x))
        if pre:
            return self._linear(block.ff_out, hidden, residual=self._buffers[block.output, "y"])
        return self._norm(block.norm_2, self._linear(block.ff_out, hidden, residual=x))

    def _reads_pairs(self, block: Block) -> bool:
        """Whether its input is the table of pairs."""
        return self._by_pair and block is self.model.layers[0]

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
        if last_only:
            d_query, d_source = self._last_attention_back(block, self._buffers[block.query, "y"], source, d_mixed)
        else:
            rows = "gathered" if self._reads_pairs(block) else "y"
            query, key, value = (self._buffers[linear, rows] for linear in (block.query, block.key, block.value))
            d_query, d_key, d_value = self._attention_back(block, query, key, value, d_mixed)
            if self._reads_pairs(block):
                d_query, d_key, d_value, d_stream = (self._gather_back(dy) for dy in (d_query, d_key, d_value, d_stream))
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
