"""Sentence embeddings, and how close a response's meaning is to the aligned baseline's.

The embedding model is the user's choice and may be any local directory in sentence-transformers
format; nothing is fetched from a network. A cosine near 1 says that two texts are close for this
embedding model: it is no judgement of quality or trait (a fluent lie about the same subject is
close, too), and values of different embedding models do not compare.

Source: arXiv 2604.08169v2, section C.3.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError

from interp_steer.measures import MeasureError

_WEIGHTS = (".safetensors", ".bin", ".pt")
_SETTINGS = (".json", ".txt", ".model")
_LOAD_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError),
    SafetensorError,
)


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into vectors of norm 1."""

    @property
    def name(self) -> str:
        """Name that tables and manifests record."""
        ...

    def identity(self) -> dict[str, str]:
        """What a run pins: the name and a hash of everything that changes an embedding."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        """Return one vector of norm 1 per text, in order."""
        ...


class SentenceTransformerEmbedder:
    """An embedding model in a local directory of sentence-transformers format.

    It is loaded when first asked for an embedding. A text longer than the model's own limit is cut
    there, silently (256 tokens for all-MiniLM-L6-v2).
    """

    def __init__(self, directory: str | Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        """Take the directory's word for what it is; `encode` loads it.

        Args:
            directory: holds modules.json and the files of each module.
            device: where it runs.
            batch_size: texts encoded together.

        Raises:
            MeasureError: no such directory, or one of another format.
        """
        self.directory = Path(directory).resolve()
        self.device, self.batch_size = device, batch_size
        missing = [
            what
            for what, found in (
                ("modules.json", (self.directory / "modules.json").is_file()),
                (f"weights ({', '.join(_WEIGHTS)})", bool(self._files(_WEIGHTS))),
            )
            if not found
        ]
        if missing:
            state = "lacks " + " and ".join(missing) if self.directory.is_dir() else "is not there"
            raise MeasureError(
                f"expected a local directory in sentence-transformers format, {self.directory} "
                f"{state}; save a model there with SentenceTransformer.save, or give the "
                "directory that a package brings"
            )

    @property
    def name(self) -> str:
        """The directory's name; a path would differ between machines."""
        own = self.directory.name
        return own if own != "model" else f"{self.directory.parent.name}/{own}"

    def identity(self) -> dict[str, str]:
        """Name, SHA-256 of the weight files and of the files that configure model and tokenizer."""
        return {
            "embedder": self.name,
            "weights": self._hashes[0],
            "configuration": self._hashes[1],
        }

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        """Return one float32 vector of norm 1 per text, in order.

        Raises:
            MeasureError: sentence-transformers is not installed, or cannot load the directory.
        """
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        encoded = self._model.encode(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(encoded, dtype=np.float32)

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MeasureError(
                "sentence embeddings need the package sentence-transformers, which is not "
                "installed; run: pip install 'interp-steer[embeddings]'"
            ) from error
        try:
            return SentenceTransformer(
                str(self.directory), device=self.device, local_files_only=True
            ).eval()
        except _LOAD_ERRORS as error:
            raise MeasureError(
                f"sentence-transformers could not load {self.directory}: {error}; give a directory "
                "that SentenceTransformer.save wrote"
            ) from error

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        return self._hash(self._files(_WEIGHTS)), self._hash(self._files(_SETTINGS))

    def _files(self, suffixes: Sequence[str]) -> list[Path]:
        return sorted(p for p in self.directory.rglob("*") if p.suffix in suffixes and p.is_file())

    def _hash(self, files: Sequence[Path]) -> str:
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(self.directory).as_posix()}\0".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def cosine_to_reference(
    embedder: Embedder, texts: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, "text"]:
    """Cosine of each text's embedding with its reference's, in [-1, 1].

    Every different text is encoded once, so equal texts have cosine 1 up to rounding. NaN where
    either text is empty or white space, which means nothing.

    Raises:
        MeasureError: texts and references that are not one to one, or an embedder that does not
            return one finite vector of norm 1 per text.
    """
    if len(texts) != len(references):
        raise MeasureError(
            f"expected one reference per text, got {len(texts)} texts and {len(references)} "
            "references"
        )
    pairs = [(a, b) for a, b in zip(texts, references, strict=True)]
    is_said = [bool(a.strip()) and bool(b.strip()) for a, b in pairs]
    said = [pair for pair, is_there in zip(pairs, is_said, strict=True) if is_there]
    place = {text: i for i, text in enumerate(dict.fromkeys(t for pair in said for t in pair))}
    cosines = np.full(len(texts), np.nan)
    if not said:
        return cosines
    vectors = _checked(embedder, embedder.encode(list(place)), len(place))
    left, right = (vectors[[place[pair[side]] for pair in said]] for side in (0, 1))
    cosines[np.array(is_said)] = (left * right).sum(axis=1)
    return cosines


def unit_vectors(embedder: Embedder, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
    """Return one float64 vector per text, its norm exactly 1.

    Raises:
        MeasureError: an embedder that does not return one finite vector of norm 1 per text.
    """
    return _checked(embedder, embedder.encode(texts), len(texts))


def _checked(
    embedder: Embedder, vectors: Float[np.ndarray, "text d"], n: int
) -> Float[np.ndarray, "text d"]:
    """Return the vectors in float64, their norms exactly 1."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    if len(wide) != n or not bool((np.abs(norms - 1) < 1e-3).all()):
        raise MeasureError(
            f"embedder {embedder.name!r} returned {len(wide)} vectors for {n} texts, norms from "
            f"{norms.min(initial=np.inf):.4g} to {norms.max(initial=-np.inf):.4g}; expected one "
            "vector of norm 1 per text"
        )
    return wide / norms
