"""The served model as the planner and the wire see it: sizes only, no weights.

Always: every size is per unit named in the field, in bytes as resident in memory.
"""

from dataclasses import dataclass, replace

from helix_p2p.types import LayerRange


@dataclass(frozen=True, slots=True)
class HeldSizes:
    """What a model's parts weigh on one device, which may hold them in fewer or in more bits.

    Attributes: As of `ModelSpec`.
    """

    layer_bytes: int
    embedding_bytes: int
    head_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes of a decoder-only transformer.

    Attributes:
        name: What people call it, `org/name` or a folder's name.
        manifest_hash: Hex SHA-256 of the model's manifest; two peers with equal hashes hold equal
            weights.
        layers: Decoder layers L.
        d_model: Width of the hidden state.
        vocab_size: Rows of the head.
        context_tokens: Longest prompt plus answer.
        layer_bytes: Weights of one decoder layer.
        embedding_bytes: Weights that the first stage holds besides its layers.
        head_bytes: Weights that the last stage holds besides its layers (a tied embedding counts
            at both ends).
        kv_bytes_per_token: KV cache of one token in one layer.
        activation_bytes: Hidden state of one token on the wire.
    """

    name: str
    manifest_hash: str
    layers: int
    d_model: int
    vocab_size: int
    context_tokens: int
    layer_bytes: int
    embedding_bytes: int
    head_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int

    @property
    def all_layers(self) -> LayerRange:
        """`[0, L)`."""
        return LayerRange(0, self.layers)

    @property
    def held(self) -> HeldSizes:
        """Its sizes alone."""
        return HeldSizes(
            self.layer_bytes, self.embedding_bytes, self.head_bytes, self.kv_bytes_per_token
        )

    def as_held(self, held: HeldSizes | None) -> "ModelSpec":
        """The model with the sizes that it has on one device; None leaves it as it is."""
        if held is None:
            return self
        return replace(
            self,
            layer_bytes=held.layer_bytes,
            embedding_bytes=held.embedding_bytes,
            head_bytes=held.head_bytes,
            kv_bytes_per_token=held.kv_bytes_per_token,
        )

    def weight_bytes(self, layers: LayerRange) -> int:
        """Resident weights of a slice, with embedding and head where it holds an end."""
        total = len(layers) * self.layer_bytes
        if layers.start == 0:
            total += self.embedding_bytes
        if layers.end == self.layers:
            total += self.head_bytes
        return total
