"""The mixture-of-experts layer: route, compute, add up.

Shape legend: B batch, S sequence, T = B·S tokens, M model width, E experts, H hidden width, k choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.nn.expert_choice import ExpertRouting, route_experts
from tenfold.nn.experts import ExpertWeights, run_experts
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import draw_normal, init_generator
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_losses import AllSum, choice_counts
from tenfold.nn.moe_stats import Stats
from tenfold.nn.routing import TokenRouting, route_tokens, router_logits

Routing = TokenRouting | ExpertRouting


@dataclass(frozen=True)
class MoEOutput:
    """What a layer leaves behind after a forward pass."""

    y: Tensor  # the layer's output
    aux_loss: Tensor  # weighted sum of the losses below, with gradient; add it to the model's loss
    lb_loss: Tensor  # raw load-balance loss; 1 at perfect balance
    z_loss: Tensor  # raw router z-loss
    routing: Routing

    @property
    def stats(self) -> Stats:
        """Statistics by name (see `moe_stats.finish_stats`), exact, computed when first read."""
        return self.routing.stats

    def __iter__(self) -> Iterator[Any]:
        """y, aux_loss, lb_loss, z_loss, stats, routing."""
        return iter((self.y, self.aux_loss, self.lb_loss, self.z_loss, self.stats, self.routing))


class MoE(nn.Module):
    """A feed-forward layer of E experts, of which every token uses a few.

    Noise (jitter, gumbel, random second choice) is drawn in training only, from torch's random state, which the
    training loop reseeds before each forward; nothing is seeded here.

    Args:
        config: the settings.
        generator: where the weights are drawn from.
    Attributes:
        gate_weight: [M, E]; w0, w1: [E, M, H]; w2: [E, H, M]; b0, b1: [E, H]; b2: [E, M] (None where unused).
        last: output, losses and routing of the latest forward; None before the first and after `collect_aux`. Written
            once per forward, also under non-reentrant activation checkpointing.
        all_sum: set by whoever shards the layer: a differentiable sum of a vector over ranks (see `aux_losses`).
    """

    bias: Tensor
    choice_counts: Tensor

    def __init__(self, config: MoEConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        generator = init_generator(generator)
        model, hidden, experts = config.dim, config.hidden, config.num_experts

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape))

        self.gate_weight = weight(model, experts)
        self.w0 = weight(experts, model, hidden)
        self.w1 = weight(experts, model, hidden) if config.gated else None
        self.w2 = weight(experts, hidden, model)
        self.b0 = weight(experts, hidden) if config.bias else None
        self.b1 = weight(experts, hidden) if config.bias and config.gated else None
        self.b2 = weight(experts, model) if config.bias else None
        self.shared: FeedForward | None = None
        self.shared_gate: nn.Parameter | None = None
        if config.shared_hidden:
            activation: Any = config.activation
            self.shared = FeedForward(
                model, config.shared_hidden, activation=activation, bias=config.bias, generator=generator
            )
            self.shared_gate = weight(model, 1) if config.shared_gate else None
        if config.router == "topk_bias":
            self.register_buffer("bias", torch.zeros(experts, dtype=torch.float32))
            self.register_buffer("choice_counts", torch.zeros(experts, dtype=torch.long), persistent=False)
        self.gate_weight.requires_grad_(config.router != "random")
        self.last: MoEOutput | None = None
        self.all_sum: AllSum | None = None
        self.debug_name: str | None = None
        self.register_load_state_dict_pre_hook(_check_checkpoint)
        self._draw(generator)

    @property
    def aux_loss(self) -> Tensor:
        """Weighted auxiliary loss of the latest forward."""
        if self.last is None:
            raise ValueError("aux_loss: the layer has not run since it was made or collected")
        return self.last.aux_loss

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew: router N(0, 0.02²), experts N(0, 1/fan_in) each on its own, biases 0."""
        generator = init_generator(generator)
        if self.shared is not None:
            for linear in (self.shared.gate_proj, self.shared.up_proj, self.shared.down_proj):
                if linear is not None:
                    linear.reset_parameters(generator)
        self._draw(generator)

    def _draw(self, generator: torch.Generator) -> None:
        config = self.config
        draw_normal(self.gate_weight, 0.02, generator)
        for w, fan_in in ((self.w0, config.dim), (self.w1, config.dim), (self.w2, config.hidden)):
            if w is not None:
                draw_normal(w, fan_in**-0.5, generator)
        for b in (self.b0, self.b1, self.b2):
            if b is not None:
                nn.init.zeros_(b)
        if self.shared_gate is not None:
            draw_normal(self.shared_gate, 0.02, generator)

    def __getstate__(self) -> dict[str, Any]:
        # `last` holds a graph, which can be neither copied nor pickled.
        return {**self.__dict__, "last": None}

    def extra_repr(self) -> str:
        c = self.config
        return (
            f"dim={c.dim}, hidden={c.hidden}, num_experts={c.num_experts}, router={c.router!r}, backend={c.backend!r}"
        )

    def weights(self) -> ExpertWeights:
        """The experts' parameters."""
        return ExpertWeights(self.config.activation, self.w0, self.w1, self.w2, self.b0, self.b1, self.b2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MoE:
        # Steps of 1e-3 vanish in bfloat16: the selection bias moves to another device, never to another precision.
        bias = self._buffers.get("bias")
        super()._apply(fn, recurse)
        if bias is not None and self.bias.dtype != bias.dtype:
            self.bias = bias.to(self.bias.device)
        return self

    def _groups(self, batch: int, tokens: int) -> int:
        """Number of groups of a call."""
        c = self.config
        if tokens == 0:
            return 1
        if batch > 1 and batch % c.outer:
            raise ValueError(f"outer: got {c.outer}, need a divisor of the {batch} sequences of the call")
        if c.group_size is not None:
            if tokens % c.group_size:
                raise ValueError(f"group_size: got {c.group_size}, need a divisor of the {tokens} tokens of the call")
            return tokens // c.group_size
        if c.picks_tokens and c.groups == c.outer == 1:
            return batch
        if tokens % (c.outer * c.groups):
            raise ValueError(
                f"outer·groups: got {c.outer}·{c.groups}, need a divisor of the {tokens} tokens of the call"
            )
        return c.outer * c.groups

    def route(self, x: Tensor, router_input: Tensor | None = None, mask: Tensor | None = None) -> Routing:
        """Decide which experts work on which tokens.

        Args:
            x: [B, S, M] or [T, M].
            router_input: what the router reads instead of x, same shape.
            mask: bool [B, S] (or [T]), False for padding, which takes no place and no part in losses.
        Returns:
            the routing; tokens in natural order.
        """
        config = self.config
        self._check_input(x, router_input, mask)
        source = x if router_input is None else router_input
        if mask is not None:
            # Whatever padding holds, NaN included, must not leak through a product with 0.
            source = source.masked_fill(~mask[..., None], 0)
        batch, tokens = (1 if x.dim() == 2 else x.shape[0]), x.shape[:-1].numel()
        flat = source.reshape(tokens, config.dim)
        valid = None if mask is None else mask.reshape(-1)
        if self.training and config.jitter:
            # On a copy: the experts see the tokens as they are.
            flat = flat * torch.empty_like(flat).uniform_(1 - config.jitter, 1 + config.jitter)
        logits = router_logits(flat, self.gate_weight, config.logit_cap)
        self._check_finite(logits)
        groups = self._groups(batch, tokens)
        if config.picks_tokens:
            return route_experts(config, logits, training=self.training, groups=groups, sequences=batch, valid=valid)
        return route_tokens(
            config,
            logits,
            training=self.training,
            groups=groups,
            sequences=batch,
            valid=valid,
            bias=self.bias if config.router == "topk_bias" else None,
            all_sum=self.all_sum,
        )

    def forward(
        self,
        x: Tensor,
        router_input: Tensor | None = None,
        mask: Tensor | None = None,
        return_routing: bool = False,
    ) -> Tensor | tuple[Tensor, Routing]:
        """Route, compute, add up.

        Args:
            x, router_input, mask: as in `route`.
            return_routing: also return the routing.
        Returns:
            y of the shape of x (padding gets 0 from the experts), or (y, routing).
        Raises:
            ValueError: shapes that do not fit; groups that do not divide the tokens.
        """
        routing = self.route(x, router_input, mask)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        weights, x_TM = self.weights(), x.reshape(-1, self.config.dim)
        if torch.is_autocast_enabled(x.device.type):
            # By hand, since autocast knows neither the ragged product nor the gather.
            dtype = torch.get_autocast_dtype(x.device.type)
            weights, x_TM = weights.to(dtype), x_TM.to(dtype)
        with torch.autocast(device_type=x.device.type, enabled=False):
            y = self._run_experts(x_TM, routing, weights).view(x.shape)
        if self.shared is not None:
            shared = self.shared(x)
            y = y + (shared if self.shared_gate is None else shared * torch.sigmoid(x @ self.shared_gate.to(x.dtype)))
        self._record(y, routing)
        return (y, routing) if return_routing else y

    def _run_experts(self, x_TM: Tensor, routing: Routing, weights: ExpertWeights) -> Tensor:
        return run_experts(x_TM, routing.rows(), weights, self.config.backend)

    def _record(self, y: Tensor, routing: Routing) -> None:
        """Leave `last` behind, unless this forward is a checkpoint's recomputation."""
        # Inside backward the engine has a graph task; torch's own checkpointing asks the same way.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return
        config = self.config
        aux = config.lb_weight * routing.lb_loss
        if config.z_weight:
            aux = aux + config.z_weight * routing.z_loss
        if config.sequence_weight:
            aux = aux + config.sequence_weight * routing.sequence_loss
        if config.router == "topk_bias" and self.training:
            assert isinstance(routing, TokenRouting)
            with torch.no_grad():
                self.choice_counts += choice_counts(routing.indices, config.num_experts, 1, routing.valid)[0]
        self.last = MoEOutput(y, aux, routing.lb_loss, routing.z_loss, routing)

    @torch.no_grad()
    def update_bias(self, rate: float = 1e-3) -> None:
        """After a training step: push the selection bias towards experts chosen less often than the mean.

        Uses the choices of all training forwards since the last call. Ranks that share a batch add up the buffer
        `choice_counts` first.

        Args:
            rate: u in b += u·sign(mean(n) − n).
        Source: DeepSeek-V3 (arXiv 2412.19437), Section 2.1.2; Wang et al. 2024 (arXiv 2408.15664), Algorithm 1.
        """
        if self.config.router != "topk_bias":
            raise ValueError(f"update_bias: router is {self.config.router!r}, need 'topk_bias'")
        # sign(Σn − E·n) is sign(mean − n) in integers.
        counts = self.choice_counts
        self.bias += rate * torch.sign(counts.sum() - counts * counts.numel()).to(self.bias.dtype)
        counts.zero_()

    def _check_input(self, x: Tensor, router_input: Tensor | None, mask: Tensor | None) -> None:
        if x.dim() not in (2, 3):
            need = f"[batch, sequence, {self.config.dim}] or [tokens, {self.config.dim}]"
            raise ValueError(f"x: got shape {tuple(x.shape)}, need {need}")
        if x.shape[-1] != self.config.dim:
            raise ValueError(f"x: got last dimension {x.shape[-1]}, need {self.config.dim} (dim)")
        if x.dtype != self.w0.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x: got {x.dtype}, need {self.w0.dtype} (the experts' dtype) or autocast")
        if router_input is not None and router_input.shape != x.shape:
            raise ValueError(f"router_input: got shape {tuple(router_input.shape)}, need that of x, {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:-1] or mask.dtype != torch.bool):
            raise ValueError(f"mask: got {mask.dtype} {tuple(mask.shape)}, need bool {tuple(x.shape[:-1])}")

    def _check_finite(self, logits: Tensor) -> None:
        if self.debug_name is not None and not bool(torch.isfinite(logits).all()):
            bad = int((~torch.isfinite(logits)).any(-1).sum())
            raise ValueError(
                f"{self.debug_name}: router logits are not finite for {bad} of {logits.shape[0]} tokens; "
                "look at the layer's input and gate_weight"
            )


def _check_checkpoint(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """One clear line where a checkpoint is of another layer."""
    if f"{prefix}gate.weight" in state_dict:
        raise ValueError(f"{prefix}gate.weight: the checkpoint is in Mixtral's layout, read it with from_mixtral")
    for name, tensor in module.named_parameters(recurse=False):
        saved = state_dict.get(prefix + name)
        if saved is not None and saved.shape != tensor.shape:
            raise ValueError(
                f"{prefix}{name}: the checkpoint has shape {tuple(saved.shape)}, need {tuple(tensor.shape)} "
                "(dim, hidden and num_experts of the layer)"
            )
