"""Running what slices.py loaded: any sub-range of the layers, and the head, by the model's code.

The inner model's forward runs with a list of just these layers; the first one takes the incoming
hidden state in place of whatever ran before it, so embedding scales and position tables upstream do
no harm. The outer forward runs with a stand-in for the inner model, so its scales and caps of
logits hold. Always: the loaded modules are shared and never changed; copies have tables of
submodules of their own.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from helix_p2p.engine.architecture import Absent, Architecture
from helix_p2p.engine.merged_layer import MergedHead, MergedLayer, MergedSpan


class Span:
    """Runs layers [start, end) of loaded modules through the model's own inner forward.

    Merged layers run one after another by themselves, which is the same in fewer steps.
    """

    def __init__(
        self, architecture: Architecture, shell: nn.Module, start: int, layers: Sequence[nn.Module]
    ) -> None:
        plain = [layer for layer in layers if isinstance(layer, MergedLayer)]
        self._merged = (
            MergedSpan(shell.get_submodule(architecture.decoder), plain)
            if len(plain) == len(layers)
            else None
        )
        self._first = _Entry(layers[0]) if start > 0 else None
        inner = _shallow(shell.get_submodule(architecture.decoder))
        listed = [self._first or layers[0], *layers[1:]]
        setattr(inner, architecture.layers, nn.ModuleList(listed))
        for name in architecture.after:
            setattr(inner, name, Absent())
        config: Any = architecture.config_for(start, start + len(layers))
        outer: Any = shell.config
        config._attn_implementation = outer._attn_implementation  # noqa: SLF001
        object.__setattr__(inner, "config", config)
        self._inner = inner
        self._takes_positions = architecture.config.model_type != "bloom"

    def run(
        self,
        *,
        tokens: torch.Tensor | None,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        cache: Any,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """One forward.

        Args:
            tokens: `[1, N]` ids, for a span that starts at 0.
            hidden: `[1, N, d_model]` otherwise.
            positions: `[1, N]`.
            cache: Holds the rows.
            mask: `[1, T]` of ones, for stock attention.

        Returns:
            `[1, N, d_model]`.
        """
        if self._merged is not None:
            return self._merged.run(tokens, hidden, positions, cache)
        given: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        if self._first is None:
            given["input_ids"] = tokens
        else:
            given["inputs_embeds"] = self._first.incoming = hidden
        out = self._inner(attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        if self._first is not None:
            self._first.incoming = None
        result: torch.Tensor = out.last_hidden_state
        return result

    def constants(self) -> object:
        """What the last pass read beside weights and arguments; a recording must keep it alive."""
        return None if self._merged is None else self._merged.table


class Head:
    """Final norm and head through the model's own outer forward, with its scales and caps."""

    def __init__(self, architecture: Architecture, shell: nn.Module) -> None:
        inner = shell.get_submodule(architecture.decoder)
        self._merged = MergedHead(shell, inner) if MergedHead.fits(shell) else None
        names = sorted(architecture.after, key=lambda name: name == "project_out")
        after = _After([getattr(inner, name) for name in names])
        *path, last = architecture.decoder.split(".")
        self._outer = owner = _shallow(shell)
        for name in path:
            child = _shallow(getattr(owner, name))
            setattr(owner, name, child)
            owner = child
        setattr(owner, last, after)

    def run(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits.

        Args:
            hidden: `[rows, d_model]`.

        Returns:
            `[rows, vocab]`.
        """
        if self._merged is not None:
            return self._merged.run(hidden)
        logits: torch.Tensor = self._outer(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits


class _Entry(nn.Module):
    """The first layer of a span: takes the incoming hidden state, whatever runs before it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.incoming: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            return self.layer(self.incoming, *args[1:], **kwargs)
        kwargs["hidden_states"] = self.incoming
        return self.layer(**kwargs)


class _After(nn.Module):
    """Stands for the whole inner model: only what it runs after its layers."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> "_Output":  # noqa: ARG002
        for part in self.parts:
            inputs_embeds = part(inputs_embeds)
        return _Output(inputs_embeds)


class _Output:
    """What an inner model returns, as far as any outer model looks: the hidden state, else None."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _shallow(module: nn.Module) -> nn.Module:
    """A copy with its own table of submodules and the same submodules."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)  # noqa: SLF001
    return copied
