"""Residual streams of single tokens, streamed to disk while a model generates or reads.

    with TokenWriter(Path("residuals"), layers=(3, 4)) as writer, lm.hooks(writer.hooks()):
        lm.generate(...)
    for block in read_token_blocks(Path("residuals"), layers=(4,)):
        ...

Memory holds one block. A folder is whole when its index is there, which is written last: without
it, after a kill or an error, reading refuses, and the next writer begins again. Residuals are what
leaves a block after the hooks attached before: inside a steering context the steered ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import RunError
from interp_steer.files import (
    atomic_write_json,
    atomic_write_tensors,
    open_tensors,
    read_json,
    remove_leftovers,
)
from interp_steer.pooled_capture import captured_layers
from interp_steer.residuals import TokenResiduals
from interp_steer.tokens import ResidHook, TokenChunk

INDEX = "tokens.json"
"""The file that says a folder is whole: layers, blocks, tokens, provenance."""
BLOCK_BYTES = 256 * 2**20
"""Residuals that are held before a block is written."""
FORMAT_VERSION = 1
_PLACES = ("sequences", "positions", "segments", "token_ids")
_REMEDY = "capture it again"


class TokenWriter:
    """Writes what its hooks see; a context manager for one call of `generate` or `forward`."""

    def __init__(
        self,
        folder: Path,
        *,
        layers: Sequence[int],
        provenance: Mapping[str, Any] | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Say where and what; nothing is written before the context is entered.

        Args:
            folder: a folder of its own; blocks of an unfinished capture there are removed.
            layers: zero-based.
            provenance: what the residuals come from, as JSON values (`HookedLM.identity`, seed).
            block_bytes: residuals to hold before a block is written, in bytes.

        Raises:
            ModelError: no layers, or a layer twice.
        """
        self.folder = folder
        self.layers = tuple(sorted(captured_layers(layers)))
        self.provenance = dict(provenance or {})
        self.block_bytes = block_bytes
        self.n_tokens = 0
        """Tokens written."""
        self._held: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        self._chunks: list[TokenChunk] = []
        self._n_blocks = 0

    def __enter__(self) -> "TokenWriter":
        """Take the folder.

        Raises:
            RunError: it holds a finished capture, or cannot be written.
        """
        if (self.folder / INDEX).exists():
            raise RunError(
                f"{self.folder} holds a finished capture already; read it with read_token_blocks, "
                "or name another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        for block in self.folder.glob("tokens-*.safetensors"):
            block.unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest and the index; after an error neither."""
        if kind is not None:
            return
        if self._chunks:
            self._write()
        index = {
            "format": "interp-steer token residuals",
            "format_version": FORMAT_VERSION,
            "layers": list(self.layers),
            "blocks": self._n_blocks,
            "tokens": self.n_tokens,
            "provenance": self.provenance,
        }
        atomic_write_json(self.folder / INDEX, index)

    def hooks(self) -> dict[int, ResidHook]:
        """Hooks by layer; they read and never edit."""
        return {layer: self._hook(layer) for layer in self.layers}

    def _hook(self, layer: int) -> ResidHook:
        def keep(resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk) -> None:
            self._held[layer].append(resid)
            if layer == self.layers[-1]:  # the chunk has been through all of them
                self._chunks.append(chunk)
                if self._held_bytes() >= self.block_bytes:
                    self._write()

        return keep

    def _held_bytes(self) -> int:
        held = self._held[self.layers[0]]
        return len(self.layers) * sum(one.numel() * one.element_size() for one in held)

    def _write(self) -> None:
        chunks, self._chunks = self._chunks, []
        is_real = [chunk.is_real for chunk in chunks]
        places = {
            "sequences": [chunk.rows[:, None].expand_as(chunk.segments) for chunk in chunks],
            "positions": [chunk.positions for chunk in chunks],
            "segments": [chunk.segments for chunk in chunks],
            "token_ids": [chunk.token_ids for chunk in chunks],
        }
        tensors = {name: _real(values, is_real) for name, values in places.items()}
        for layer in self.layers:
            tensors[f"layer.{layer}"] = _real(self._held[layer], is_real)
            self._held[layer] = []
        self.n_tokens += len(tensors["sequences"])
        atomic_write_tensors(_block(self.folder, self._n_blocks), tensors)
        self._n_blocks += 1


def read_token_blocks(
    folder: Path, *, layers: Sequence[int] | None = None
) -> Iterator[TokenResiduals]:
    """Yield what a `TokenWriter` wrote, block after block and layer after layer.

    Tokens stand in the order in which the model ran them; residuals are float32.

    Args:
        folder: the folder.
        layers: those to read; all by default. The others cost nothing.

    Raises:
        RunError: the capture is unfinished, damaged, of a later version, or lacks a layer.
    """
    index = read_json(
        folder / INDEX, remedy=f"the capture was not finished or lies elsewhere; {_REMEDY}"
    )
    _check_index(folder, index)
    wanted = index["layers"] if layers is None else list(layers)
    if missing := sorted(set(wanted) - set(index["layers"])):
        raise RunError(
            f"{folder} has no layer {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, index['layers']))}; {_REMEDY} with those layers"
        )
    for number in range(index["blocks"]):
        with open_tensors(_block(folder, number), remedy=_REMEDY) as file:
            places = {name: file.get_tensor(name) for name in _PLACES}
            n = len(places["sequences"].reshape(-1))
            if any(place.shape != (n,) for place in places.values()):
                raise ValueError("its places are not one a token")
            for layer in wanted:
                values = file.get_tensor(f"layer.{layer}").float()
                if values.ndim != 2 or len(values) != n:
                    raise ValueError(f"layer {layer} has shape {list(values.shape)}, {n} tokens")
                yield TokenResiduals(layer=layer, values=values, **places)


def _check_index(folder: Path, index: Any) -> None:
    known = isinstance(index, dict) and index.get("format") == "interp-steer token residuals"
    if not known or not _fits(index):
        raise RunError(f"{folder / INDEX} is no index of token residuals; {_REMEDY}")
    if index.get("format_version") != FORMAT_VERSION:
        raise RunError(
            f"{folder} has version {index.get('format_version')!r:.60}, this library reads "
            f"{FORMAT_VERSION}; read it with the interp-steer that wrote it"
        )


def _fits(index: Mapping[str, Any]) -> bool:
    layers = index.get("layers")
    return (
        isinstance(layers, list)
        and all(type(layer) is int for layer in layers)
        and all(type(index.get(name)) is int for name in ("blocks", "tokens"))
    )


def _block(folder: Path, number: int) -> Path:
    return folder / f"tokens-{number:06d}.safetensors"


def _real(values: Sequence[Tensor], is_real: Sequence[Tensor]) -> Tensor:
    """Return the entries of real tokens, call after call, on the CPU."""
    pairs = zip(values, is_real, strict=True)
    return torch.cat([value[real.to(value.device)].cpu() for value, real in pairs])
