"""What extraction yields: pooled features of a task's documents, read block by block."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array, vstack

from mosaic.config.choices import HIDDEN_POOLINGS
from mosaic.errors import ConfigError
from mosaic.extraction.pooling import arrays_for, pool
from mosaic.storage.shards import Store


@dataclass(frozen=True)
class Block:
    """One unit of the store: an SAE of a layer, or (width None) the layer's hidden states."""

    layer: int
    width: str | None
    key: str

    @property
    def name(self) -> str:
        """`layer_12/width_16k` or `layer_12/hidden`."""
        return f"layer_{self.layer}/" + (f"width_{self.width}" if self.width else "hidden")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the documents of one task under one model; nothing is read before it is asked."""

    ids: np.ndarray
    """The task's document ids `[n_docs]`, in the task's order."""
    store: Store
    blocks: tuple[Block, ...]

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return len(self.ids)

    @cached_property
    def n_tokens(self) -> np.ndarray:
        """Pooled tokens per document `[n_docs]`; 0 for an empty text."""
        return self._read(self.blocks[0], ("n_tokens",))["n_tokens"].astype(np.int64)

    @cached_property
    def cut(self) -> np.ndarray:
        """bool `[n_docs]`: documents that are longer than what was read of them."""
        return self._read(self.blocks[0], ("cut",))["cut"]

    def matrix(
        self,
        layer: int,
        width: str,
        pooling: str = "sum",
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> csr_array:
        """Pooled SAE features `[n_docs, d_sae]`, float32 CSR (paper §3; top-n and > as authors').

        `threshold` v binarizes: 1 where the pooled number is above v. Raises ConfigError for a
        layer, width, pooling or `top_n` that was not extracted.
        """
        block = self._block(layer, width)
        manifest = self._manifest(block)
        names = arrays_for(pooling, top_n, tuple(manifest["top_n"]))
        parts = [
            pool(self.store.read(block.key, shard, names), pooling, manifest["d_sae"], threshold)
            for shard in range(len(manifest["shards"]))
        ]
        return csr_array(vstack(parts, format="csr"))

    def hidden(self, layer: int, pooling: str = "mean") -> np.ndarray:
        """Pooled hidden states of a block's output `[n_docs, d_model]` float32.

        "last" is the authors' baseline (protocol §5); "mean" and "max" are ours.
        """
        if pooling not in HIDDEN_POOLINGS:
            raise ConfigError(
                f"Unknown pooling of hidden states {pooling!r}; use one of {HIDDEN_POOLINGS}."
            )
        return self._read(self._block(layer, None), (pooling,))[pooling]

    def _block(self, layer: int, width: str | None) -> Block:
        for block in self.blocks:
            if (block.layer, block.width) == (layer, width):
                return block
        raise ConfigError(
            f"Layer {layer!r}{f', width {width!r}' if width else ''} was not extracted; there is "
            f"{[block.name for block in self.blocks]}. Name it in `extract(layers=, widths=)`."
        )

    def _manifest(self, block: Block) -> dict:
        manifest = self.store.manifest(block.key)
        if manifest is None:
            raise ConfigError(
                f"{block.name} is gone from {self.store.root}; run the extraction again."
            )
        return manifest

    def _read(self, block: Block, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        shards = range(len(self._manifest(block)["shards"]))
        parts = [self.store.read(block.key, shard, names) for shard in shards]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}
