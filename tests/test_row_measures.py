"""Every measure of a sweep row is what its definition gives, and null where it does not apply."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp_steer.cells import ALIGNED, BASELINES, MALICIOUS, NEUTRAL, Cell, prefilled, steered_cell
from interp_steer.fit_stage import load_probes
from interp_steer.measures import EDIT_COLUMNS, MEASURE_COLUMNS, REFERENCE_COLUMNS
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.steering import steer
from interp_steer.study import Study
from interp_steer.sweep import SweepSetting, read_rows, run_cells
from interp_steer.sweep_rows import Block, steering_spec
from study_cases import WordJudge, tiny_study

STRONG = steered_cell(method="swfc", layer=1, alpha=2.0, scope="all")
GATED = steered_cell(method="sttp", layer=1, alpha=6.0, scope="response")
NIL = replace(STRONG, alpha=0.0)
K = 3
CELLS = (
    *BASELINES,
    NEUTRAL,
    prefilled(K),
    STRONG,
    GATED,
    GATED.under(f"prefill:{K}"),
    *(cell.as_guard(side) for cell in (STRONG, GATED, NIL) for side in ("aligned", "neutral")),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return tiny_study(tmp_path_factory.mktemp("study"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def setting(study: Study) -> SweepSetting:
    return SweepSetting(
        lm=study.lm,
        probes=load_probes(study.run),
        judge=WordJudge(),
        generation=study.settings,
        batch_size=16,
    )


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, study: Study, setting: SweepSetting
) -> pd.DataFrame:
    return swept(tmp_path_factory.mktemp("swept"), study, setting, CELLS)


def swept(
    folder: Path, study: Study, setting: SweepSetting, cells: tuple[Cell, ...]
) -> pd.DataFrame:
    run = Run.create(folder / "run")
    run_cells(run, [Block(cells=cells, scenarios=study.split("test")[:5])], setting=setting)
    table = read_rows(run).to_pandas()
    table["cell"] = [Cell.from_row(row) for row in table.to_dict("records")]
    return table.set_index(["cell", "scenario"]).sort_index(key=lambda keys: keys.map(str))


def of(rows: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    return rows.loc[cell]


def log_p(lm: HookedLM, prompt: list[int], response: list[int]) -> np.ndarray:
    """log p of every response token, by the model without any of this library's machinery."""
    with torch.no_grad():
        logits = lm.bridge(torch.tensor([[*prompt, *response]]))[0].double()
    chosen = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return chosen.gather(-1, torch.tensor(response)[:, None])[:, 0].numpy()


def test_cross_entropy_is_under_the_unsteered_model_after_the_aligned_prompt(
    rows: pd.DataFrame, study: Study
) -> None:
    scenarios = {s.id: s for s in study.split("test")}
    checked = 0
    for cell in (STRONG, GATED, GATED.under(f"prefill:{K}"), MALICIOUS):
        for name, row in of(rows, cell).iterrows():
            aligned = list(study.lm.tokenize(scenarios[name].prompt("aligned")).token_ids)
            reference = list(of(rows, ALIGNED).loc[name].token_ids)
            prefix = list(of(rows, MALICIOUS).loc[name].token_ids[:K]) if cell.prefill else []
            own = list(row.token_ids)
            n = min(len(own), len(reference))
            if n == 0:
                assert np.isnan(row.cross_entropy)
                continue
            expected = -log_p(study.lm, aligned + prefix, own)[:n].mean()
            assert row.cross_entropy == pytest.approx(expected, abs=1e-4)
            expected = -log_p(study.lm, aligned, reference)[:n].mean()
            assert row.cross_entropy_reference == pytest.approx(expected, abs=1e-4)
            checked += 1
    assert checked >= 15


def test_the_aligned_baseline_is_its_own_reference(rows: pd.DataFrame) -> None:
    there = of(rows, ALIGNED)
    assert there.cross_entropy.equals(there.cross_entropy_reference)
    steered = of(rows, STRONG)
    assert not np.allclose(steered.cross_entropy, steered.cross_entropy_reference, equal_nan=True)


def test_edit_measures_are_of_steered_rows_alone(rows: pd.DataFrame) -> None:
    for cell in BASELINES:
        assert of(rows, cell)[list(EDIT_COLUMNS)].isna().all(axis=None)
    strong, nil = of(rows, STRONG), of(rows, NIL.as_guard("aligned"))
    assert (strong.target_distance > 0).all()
    assert (strong.fired_share == 1).all()  # SwFC has no gate
    assert (nil.target_distance == 0).all()


def test_the_prefill_has_its_own_firing_rate(rows: pd.DataFrame) -> None:
    assert of(rows, GATED.under(f"prefill:{K}")).fired_share_prefill.isna().all()  # out of scope
    assert of(rows, STRONG).fired_share_prefill.isna().all()  # none there
    assert (of(rows, STRONG).fired_share_user == 1).all()


def test_divergence_is_of_guards_alone_and_against_their_own_side(
    rows: pd.DataFrame, study: Study, setting: SweepSetting
) -> None:
    guards = [c for c in CELLS if c.is_guard]
    assert rows.loc[[c for c in CELLS if not c.is_guard]].kl_to_unsteered.isna().all()
    for cell in guards:
        kl = of(rows, cell).kl_to_unsteered.dropna()
        assert len(kl) >= 3
        assert (kl.abs() < 1e-6).all() if cell.alpha == 0 else (kl > 1e-4).all()
    cell = STRONG.as_guard("neutral")
    scenario = next(s for s in study.split("test") if of(rows, NEUTRAL).n_tokens[s.id] > 1)
    prompt = study.lm.tokenize(scenario.prompt("neutral"))
    sequence = prompt.with_response(of(rows, NEUTRAL).token_ids[scenario.id].tolist())
    unsteered = study.lm.forward([sequence])
    spec = steering_spec(cell)
    assert spec is not None
    with steer(study.lm, spec, setting.probes):
        steered = study.lm.forward([sequence])
    assert unsteered is not None
    assert steered is not None
    p, q = (x[0, len(prompt) - 1 : -1].double().log_softmax(-1) for x in (unsteered, steered))
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert of(rows, cell).kl_to_unsteered[scenario.id] == pytest.approx(expected, rel=1e-4)


def test_without_a_baseline_nothing_is_compared(
    tmp_path: Path, study: Study, setting: SweepSetting
) -> None:
    found = swept(tmp_path, study, setting, (STRONG, STRONG.as_guard("neutral")))
    assert found[[*REFERENCE_COLUMNS, "kl_to_unsteered"]].isna().all(axis=None)
    assert found.target_distance.notna().all()
    assert found.distinct_1.notna().any()


def test_measures_can_be_left_out(tmp_path: Path, study: Study, setting: SweepSetting) -> None:
    plain = replace(setting, judge_free=False)
    found = swept(tmp_path, study, plain, (*BASELINES, STRONG))
    assert found[list(MEASURE_COLUMNS)].isna().all(axis=None)


def test_packing_changes_no_measure(
    tmp_path: Path, rows: pd.DataFrame, study: Study, setting: SweepSetting
) -> None:
    found = swept(tmp_path, study, replace(setting, batch_size=3), CELLS)
    same = (found.response == rows.response).to_numpy()
    assert same.mean() > 0.98
    columns = list(MEASURE_COLUMNS)
    np.testing.assert_allclose(
        found[columns].to_numpy(float)[same], rows[columns].to_numpy(float)[same], atol=2e-4
    )


class Letters:
    """Embeds a text by its first letters: a unit vector of 26 counts."""

    name = "letters"

    def identity(self) -> dict[str, str]:
        return {"embedder": self.name}

    def encode(self, texts) -> np.ndarray:
        counts = np.array(
            [
                [sum(w[0] == chr(97 + i) for w in t.lower().split()) for i in range(26)]
                for t in texts
            ]
        )
        counts = counts + 1e-9
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_cosine_is_to_the_aligned_baselines_response(
    tmp_path: Path, study: Study, setting: SweepSetting
) -> None:
    embedder = Letters()
    found = swept(tmp_path, study, replace(setting, embedder=embedder), (*BASELINES, STRONG))
    assert of(found, ALIGNED).embedding_cosine.dropna().to_numpy() == pytest.approx(1.0)
    for name, row in of(found, STRONG).iterrows():
        texts = [row.response, of(found, ALIGNED).response[name]]
        if all(text.strip() for text in texts):
            one, other = embedder.encode(texts)
            assert row.embedding_cosine == pytest.approx(one @ other)
