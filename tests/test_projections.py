"""Per-token projections: against TransformerLens' own cache, whatever the batch; streamed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from interp_steer.errors import ModelError, ProbeError
from interp_steer.model import HookedLM
from interp_steer.names import resid_post
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.projections import PROJECTION_SCHEMA, project_tokens
from interp_steer.readability import Readability
from interp_steer.scenarios import Prompt
from interp_steer.tokens import Segment, TokenizedPrompt

SEPARATION = Readability(cohens_d=1.0, accuracy=1.0, auroc=1.0)


def random_probes(lm: HookedLM, layers: tuple[int, ...]) -> ProbeSet:
    def probe(layer: int) -> LayerProbe:
        v_hat = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(layer))
        numbers = dict.fromkeys(("mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu"), 1.0)
        return LayerProbe(
            layer=layer,
            v_hat=v_hat / v_hat.norm(),
            boundary=0.0,
            cosine_caa=1.0,
            converged=True,
            crossfit=SEPARATION,
            in_sample=SEPARATION,
            **numbers,
        )

    return ProbeSet(probes=tuple(probe(layer) for layer in layers))


@pytest.fixture(scope="module")
def sequences(tiny_lm: HookedLM) -> list[TokenizedPrompt]:
    texts = ["who are you ?", "tell me the capital of tiger lives in Paris please .", "yes"]
    responses = [[12, 9], [8, 11, 14, 10], [13]]
    return [
        tiny_lm.tokenize(Prompt.chat(text, "you are honest .")).with_response(response)
        for text, response in zip(texts, responses, strict=True)
    ]


LABELS: dict[str, Any] = {
    "scenario_ids": ["s0", "s1", "s2"],
    "sides": ["aligned", "malicious", "aligned"],
}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_real_token_has_its_projection_at_every_layer(
    tiny_lm: HookedLM, sequences: list[TokenizedPrompt], tmp_path: Path, batch_size: int
) -> None:
    probes = random_probes(tiny_lm, (2, 0))
    path = tmp_path / "projections.parquet"
    n_rows = project_tokens(tiny_lm, sequences, probes, path=path, batch_size=batch_size, **LABELS)
    frame = pq.read_table(path).to_pandas()
    assert n_rows == len(frame) == 2 * sum(len(sequence) for sequence in sequences)
    for place, sequence in enumerate(sequences):
        own = frame[frame["scenario"] == f"s{place}"]
        assert set(own["side"]) == {LABELS["sides"][place]}
        # One sequence alone, without padding, through TransformerLens' own cache.
        _, cache = tiny_lm.bridge.run_with_cache(torch.tensor([sequence.token_ids]))
        assert list(dict.fromkeys(own["layer"])) == [2, 0]
        for layer in (2, 0):
            rows = own[own["layer"] == layer]
            expected = cache[resid_post(layer)][0].detach() @ probes.probe(layer).v_hat
            # Float32 noise of padded against single, measured at 1e-6; values are of size 1.
            assert np.allclose(rows["projection"], expected.numpy(), atol=2e-5)
            assert float(expected.std()) > 0.05
            assert rows["pos"].tolist() == list(range(len(sequence)))
            assert rows["token"].tolist() == tiny_lm.token_strings(sequence.token_ids)
            names = [Segment(segment).name.lower() for segment in sequence.segments]
            assert rows["segment"].tolist() == names
    assert set(frame["segment"]) == {"template", "system", "user", "response"}


def test_the_table_is_written_layer_by_layer_in_the_columns_of_the_design(
    tiny_lm: HookedLM, sequences: list[TokenizedPrompt], tmp_path: Path
) -> None:
    path = tmp_path / "p.parquet"
    probes = random_probes(tiny_lm, (1, 0))
    indices = [0, 0, 4]
    project_tokens(
        tiny_lm, sequences, probes, path=path, batch_size=2, response_indices=indices, **LABELS
    )
    with pq.ParquetFile(path) as file:
        assert file.metadata.num_row_groups == 2
        assert [set(file.read_row_group(i)["layer"].to_pylist()) for i in (0, 1)] == [{1}, {0}]
        assert file.schema_arrow == PROJECTION_SCHEMA
    names = PROJECTION_SCHEMA.names
    assert names[:7] == ["scenario", "side", "pos", "token", "segment", "layer", "projection"]
    frame = pq.read_table(path).to_pandas()
    assert frame.groupby("scenario")["response_index"].first().tolist() == indices


def test_what_does_not_fit_is_refused_and_no_file_appears(
    tiny_lm: HookedLM, sequences: list[TokenizedPrompt], tmp_path: Path
) -> None:
    path, probes = tmp_path / "p.parquet", random_probes(tiny_lm, (1,))
    with pytest.raises(ProbeError, match="sides must have one entry for each of the 3 sequences"):
        project_tokens(
            tiny_lm, sequences, probes, path=path, scenario_ids=["a"] * 3, sides=["aligned"]
        )
    with pytest.raises(ProbeError, match="at least one sequence"):
        project_tokens(tiny_lm, [], probes, path=path, scenario_ids=[], sides=[])
    with pytest.raises(ProbeError, match="not of this model"):
        project_tokens(tiny_lm, sequences, random_probes(tiny_lm, (7,)), path=path, **LABELS)
    # The third sequence fails in the second batch, after rows were written.
    long = TokenizedPrompt(token_ids=(1,) * 500, segments=(int(Segment.USER),) * 500)
    with pytest.raises(ModelError, match="longer than the model's context"):
        project_tokens(tiny_lm, [*sequences[:2], long], probes, path=path, batch_size=2, **LABELS)
    assert list(tmp_path.iterdir()) == []
