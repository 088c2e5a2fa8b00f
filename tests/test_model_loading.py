"""What loading refuses, and that every refusal says what to do; a hub that answers as the real one.

The stand-in for the hub is an HTTP server on loopback with the hub's status codes and headers,
asked by Hugging Face's own client in a process of its own.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM, T5Config

from architectures import save_random
from conftest import save_tiny
from interp_steer.config import SamplingConfig
from interp_steer.errors import ModelError
from interp_steer.loading_errors import explanation
from interp_steer.model import ChatOptions, HookedLM
from interp_steer.model_loading import load_bridge
from interp_steer.model_support import check_architecture, supported_architectures
from interp_steer.placement import Placement
from interp_steer.scenarios import save_scenarios
from interp_steer.study import Sources, reopen_study, start_study
from interp_steer.tokens import TokenChunk
from reference import plain_forward, random_sequences
from study_cases import scenarios


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


class TestDirectories:
    def test_every_missing_file_is_named(self, directory: Path) -> None:
        for name, said in (
            ("tokenizer.json", "it has no tokenizer.*give HookedLM.load a tokenizer"),
            ("model.safetensors", "it has no weights"),
            ("config.json", "it has no config.json. Give a directory with"),
        ):
            (directory / name).rename(directory / f"{name}.away")
            with pytest.raises(ModelError, match=rf"tiny' \(a local directory\): {said}"):
                HookedLM.load(directory)

    def test_a_path_that_is_no_directory_is_no_hub_name_either(self, directory: Path) -> None:
        with pytest.raises(ModelError, match="away': there is no such directory. Check"):
            HookedLM.load(directory / "away")
        for name in ("./nowhere", "../nowhere", "some/path/nowhere"):
            with pytest.raises(ModelError, match=f"'{name}': there is no such directory. Check"):
                HookedLM.load(name)
        for name in ("config.json", "model.safetensors"):
            with pytest.raises(ModelError, match=f"{name}': it is a file; give its directory"):
                HookedLM.load(directory / name)

    def test_a_missing_shard_is_named(self, directory: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(directory)
        (directory / "model.safetensors").unlink()
        model.save_pretrained(directory, max_shard_size="20KB")
        assert HookedLM.load(directory).n_layers == 3
        shards = sorted(directory.glob("model-*.safetensors"))
        shards[1].unlink()
        with pytest.raises(
            ModelError, match=f"1 of its weight files are missing, {shards[1].name}"
        ):
            HookedLM.load(directory)

    def test_a_damaged_index_and_a_damaged_file_are_named(self, directory: Path) -> None:
        weights = directory / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:400])
        with pytest.raises(ModelError, match="a weight file is damaged.*download it again"):
            HookedLM.load(directory)
        (directory / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(ModelError, match="is no index of weights"):
            HookedLM.load(directory)

    def test_a_directory_has_no_revision(self, directory: Path) -> None:
        with pytest.raises(ModelError, match="a revision belongs to a hub name"):
            HookedLM.load(directory, revision="main")

    def test_other_kinds_of_models_are_refused_by_name(self, tmp_path: Path) -> None:
        config = T5Config(architectures=["T5ForConditionalGeneration"])
        with pytest.raises(ModelError, match="T5ForConditionalGeneration; use one of .*LlamaForC"):
            check_architecture(config)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
        (tmp_path / "model.safetensors").write_bytes(b"")
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ModelError, match="unheard_of"):
            HookedLM.load(tmp_path)
        assert {"LlamaForCausalLM", "Qwen3_5ForCausalLM"} <= set(supported_architectures())
        assert "BertForMaskedLM" not in supported_architectures()


class TestPlacement:
    def test_dtypes_by_name(self) -> None:
        assert Placement.of("cpu", "auto").dtype == torch.float32
        assert Placement.of(None, "bfloat16").dtype == torch.bfloat16
        assert Placement.of(None, "auto") == Placement(device="cpu")
        with pytest.raises(ModelError, match="dtype must be auto, float32, bfloat16 or float16"):
            Placement.of("cpu", "int8")

    def test_auto_is_bfloat16_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert Placement.of("cuda:1", "auto").dtype == torch.bfloat16
        assert Placement.of("auto", "auto").dtype == torch.bfloat16
        assert Placement.of("cpu", "auto").dtype == torch.float32

    def test_devices_and_maps(self) -> None:
        assert Placement.of("auto", "float32") == Placement.of(None, "float32", device_map="auto")
        assert Placement.of(None, "float32", n_devices=1).device == "cpu"
        assert Placement.of("cpu", "float32", n_devices=2).n_devices == 2
        for options, said in (
            ({"device": "cuda"}, "PyTorch sees no CUDA GPU; use --device cpu"),
            ({"device": "gpu"}, "there is no device 'gpu'; use cpu, cuda"),
            ({"device": "mps", "device_map": "auto"}, "one device or a device map, not both"),
            ({"device": None, "device_map": "auto", "n_devices": 2}, "device_map or n_devices"),
        ):
            with pytest.raises(ModelError, match=said):
                Placement.of(**{"dtype": "auto", **options})

    def test_more_devices_than_there_are(self, directory: Path) -> None:
        with pytest.raises(ModelError, match="n_devices=2 requires CUDA"):
            HookedLM.load(directory, n_devices=2)

    def test_a_map_of_the_cpu_gives_the_same(self, directory: Path) -> None:
        spread = HookedLM.load(directory, device_map={"": "cpu"})
        assert spread.identity() == HookedLM.load(directory).identity()

    def test_a_map_to_disk_is_refused(self, directory: Path) -> None:
        parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
        rest = {"model.layers.2": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
        with pytest.raises(ModelError, match="stayed on disk|offload_folder"):
            HookedLM.load(directory, device_map={**parts, **rest, "lm_head": "cpu"})

    def test_hooks_work_inside_the_wrappers_that_spread_a_model(self, directory: Path) -> None:
        """Accelerate's hooks around every module, as on several devices; here they move nothing."""
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
        names += [f"model.layers.{layer}" for layer in range(3)]
        dispatched = dispatch_model(model, dict.fromkeys(names, "cpu"), force_hooks=True)
        lm = HookedLM.load(directory, hf_model=dispatched)
        plain = AutoModelForCausalLM.from_pretrained(directory).eval()
        (sequence,) = random_sequences(lm.d_vocab, (30,))
        vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
        with lm.hooks({1: lambda resid, _chunk: resid + vector}):
            found = lm.forward([sequence], chunk=7)
        expected, _ = plain_forward(plain, sequence.token_ids, {1: lambda resid: resid + vector})
        assert found is not None
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)

    def test_a_chunk_follows_the_device_of_its_layer(self, directory: Path) -> None:
        """On PyTorch's meta device, which stands for another one."""
        lm, met = HookedLM.load(directory), []

        def note(_resid: torch.Tensor, chunk: TokenChunk) -> None:
            met.append({str(getattr(chunk, name).device) for name in ("rows", "token_ids")})

        call = lm._runner._hook_call(0, note)
        from interp_steer.tokens import left_pad

        lm._runner._chunk = left_pad(
            random_sequences(lm.d_vocab, (4,)), pad_id=0, device=torch.device("cpu")
        ).chunk
        try:
            call(torch.zeros(1, 4, lm.d_model, device="meta"))
        finally:
            lm._runner._chunk = None
        assert met == [{"meta"}]


class TestExplanations:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (
                torch.OutOfMemoryError("CUDA out of memory. Tried"),
                "plan --model a/b` says how much",
            ),
            (MemoryError(), "out of memory .MemoryError.*quantised"),
            (RuntimeError("DefaultCPUAllocator: not enough memory: you"), "out of memory"),
            (ImportError("Using bitsandbytes 8-bit requires"), "a package is missing .*install it"),
            (OSError("strange"), "not a local directory.: strange. Give a directory"),
        ],
    )
    def test_of_errors_that_need_no_hub(self, error: Exception, said: str) -> None:
        import re

        assert re.search(said, explanation("a/b", error))

    def test_the_cause_tells_not_the_wrapper(self) -> None:
        try:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except torch.OutOfMemoryError as inner:
                raise OSError("could not read the file") from inner
        except OSError as outer:
            assert "out of memory" in explanation("a/b", outer)

    def test_out_of_memory_while_loading(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_args: Any, **_options: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        monkeypatch.setattr("interp_steer.model_loading._boot", refuse)
        with pytest.raises(ModelError, match="out of memory .CUDA.*--device-map auto"):
            load_bridge(directory, Placement(device="cpu"))

    def test_bugs_keep_their_type(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stumble(*_args: Any, **_options: Any) -> None:
            raise KeyError("planted")

        monkeypatch.setattr("interp_steer.model_loading._boot", stumble)
        with pytest.raises(KeyError, match="planted"):
            load_bridge(directory, Placement(device="cpu"))

    def test_offline_with_nothing_cached(self) -> None:
        said = "HF_HUB_OFFLINE is set.*hf download owner/model.*or unset HF_HUB_OFFLINE"
        with pytest.raises(ModelError, match=said):
            HookedLM.load("owner/model")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for repositories by name: gated, absent, incomplete, or the files of a directory."""

    files: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay silent."""

    def _answer(self, *, body: bool) -> None:
        _, owner, *rest = self.path.split("/")
        if owner == "api":
            return self._describe("/".join(rest), body)
        name, revision, file = rest[0], rest[2], rest[3]
        if name == "gated":
            return self._send(401, {"X-Error-Code": "GatedRepo"}, b"", body)
        if name == "refused":
            return self._send(403, {"X-Error-Code": "GatedRepo"}, b"", body)
        if name == "absent":
            return self._send(401, {"X-Error-Code": "RepoNotFound"}, b"", body)
        if revision not in REVISIONS:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
        path = self.files / file
        if not path.exists() or (name == "incomplete" and file != "config.json"):
            return self._send(
                404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"", body
            )
        headers = {"ETag": f'"{file}-{path.stat().st_size}"', "X-Repo-Commit": COMMIT}
        return self._send(200, headers, path.read_bytes(), body)

    def _describe(self, asked: str, body: bool) -> None:
        if not asked.startswith("models/owner/whole"):
            return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        if "/revision/" in asked and asked.split("/")[-1] not in REVISIONS:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
        files = [{"type": "file", "path": f.name, "oid": "0", "size": 1} for f in self._listed()]
        siblings = [{"rfilename": file["path"]} for file in files]
        told = {"id": "owner/whole", "sha": COMMIT, "siblings": siblings, "tags": []}
        content: Any = files if "/tree/" in asked else told
        headers = {"Content-Type": "application/json"}
        return self._send(200, headers, json.dumps(content).encode(), body)

    def _listed(self) -> list[Path]:
        return sorted(self.files.iterdir())

    def _send(self, status: int, headers: dict[str, str], content: bytes, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    files = save_tiny(tmp_path_factory.mktemp("hub") / "files")
    handler = type("Answering", (Hub,), {"files": files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import json, sys
from interp_steer.errors import ModelError
from interp_steer.model import HookedLM
said = {}
for name, revision in json.loads(sys.argv[1]):
    try:
        lm = HookedLM.load(name, revision=revision)
        said[f"{name}@{revision}"] = [lm.model_id, lm.revision, lm.identity()["revision"]]
    except ModelError as error:
        said[f"{name}@{revision}"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def ask(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    home = tmp_path_factory.mktemp("home")

    def load(*wanted: tuple[str, str | None], **environment: str) -> dict[str, Any]:
        own = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(wanted)],
            capture_output=True,
            text=True,
            env={**os.environ, **own, **quiet, **environment},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return load


@pytest.mark.slow
class TestHub:
    def test_refusals_say_what_to_do(self, ask: Callable[..., dict[str, Any]]) -> None:
        names = ["gated", "refused", "absent", "incomplete"]
        said = ask(*((f"owner/{name}", None) for name in names), ("owner/whole", "v9"))
        for name in ("gated", "refused"):
            assert "it is gated. Accept its licence at https" in said[f"owner/{name}@None"]
            assert "hf auth login" in said[f"owner/{name}@None"]
        assert "no such repository on the hub, or it is private" in said["owner/absent@None"]
        assert "owner/incomplete" in said["owner/incomplete@None"]
        assert "Give a directory" in said["owner/incomplete@None"] or (
            "lacks a file" in said["owner/incomplete@None"]
        )
        assert "no such revision" in said["owner/whole@v9"]

    def test_the_commit_is_recorded_and_found_again_offline(
        self, ask: Callable[..., dict[str, Any]]
    ) -> None:
        assert ask(("owner/whole", "v1")) == {"owner/whole@v1": ["owner/whole", COMMIT, COMMIT]}
        offline = ask(("owner/whole", COMMIT), ("owner/other", None), HF_HUB_OFFLINE="1")
        assert offline[f"owner/whole@{COMMIT}"] == ["owner/whole", COMMIT, COMMIT]
        assert "HF_HUB_OFFLINE is set" in offline["owner/other@None"]


class TestReopening:
    def test_a_run_finds_its_chat_options_again(self, tmp_path: Path) -> None:
        directory = save_tiny(tmp_path / "tiny")
        template = directory / "chat_template.jinja"
        template.write_text(template.read_text() + "{# date_string #}{# enable_thinking #}")
        save_scenarios(tmp_path / "scenarios.jsonl", scenarios())
        chat = ChatOptions(enable_thinking=True, date="2026-11-24")
        start_study(
            tmp_path / "run",
            HookedLM.load(directory, chat=chat),
            Sources(model=str(directory), scenarios=tmp_path / "scenarios.jsonl"),
            sampling=SamplingConfig(),
        )
        assert reopen_study(tmp_path / "run").lm.chat == chat

    def test_a_given_model_is_checked_like_a_loaded_one(self, tmp_path: Path) -> None:
        from interp_steer.errors import RunError

        directory = save_tiny(tmp_path / "tiny")
        save_scenarios(tmp_path / "scenarios.jsonl", scenarios())
        lm = HookedLM.load(directory)
        sources = Sources(model=str(directory), scenarios=tmp_path / "scenarios.jsonl")
        start_study(tmp_path / "run", lm, sources, sampling=SamplingConfig())
        assert reopen_study(tmp_path / "run", lm=lm).lm is lm
        other = HookedLM.load(save_random(tmp_path / "other", "llama", seed=1))
        with pytest.raises(RunError, match="made with other settings: weights"):
            reopen_study(tmp_path / "run", lm=other)
