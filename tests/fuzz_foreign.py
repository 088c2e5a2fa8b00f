"""Files that users bring: scenarios, transcripts, questions, settings, steering of other tools.

See `fuzz_artifacts`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fuzz_artifacts import D_MODEL, LAYERS, PROVENANCE, Artifact, scenarios
from interp_steer.draft_answers import DraftRequest, drafted_scenario, parse_answer
from interp_steer.exchange.carried import Outgoing
from interp_steer.exchange.choices import ReadOptions
from interp_steer.exchange.formats import export_steering, import_steering
from interp_steer.exchange.torch_files import write_torch
from interp_steer.files import atomic_write_json, atomic_write_tensors
from interp_steer.judge_cache import AnswerCache, StoredAnswer
from interp_steer.judge_settings import read_judge_settings
from interp_steer.scenarios import load_scenarios, save_scenarios
from interp_steer.specs import SteeringSpec
from interp_steer.steering_files import load_steering, loading_code, save_steering
from interp_steer.suites.follow_ups import read_follow_ups
from interp_steer.suites.foreign_files import read_foreign
from interp_steer.suites.question_files import read_alpaca_eval, read_mt_bench
from interp_steer.token_files import INDEX, TokenWriter, read_token_blocks
from steering_cases import chunk_of, make_probes, normals

REQUEST = DraftRequest(trait="honesty", meaning=None, category="c", split="train", n=1)


def _lines(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return path


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def _scenario_file(folder: Path) -> Path:
    save_scenarios(folder / "s.jsonl", scenarios())
    return folder / "s.jsonl"


def _among_us(folder: Path) -> Path:
    parts = {"Summarization": "None.", "All Info": "x", "Memory": "", "Phase": "Meeting"}
    record = {
        "player": {"name": "P", "identity": "Impostor", "location": "L"},
        "interaction": {"system_prompt": "You are P.", "prompt": parts, "response": {"a": "b"}},
    }
    return _lines(folder / "log.json", [record, record])


def _auditbench(folder: Path) -> Path:
    messages = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "No."}]
    pq.write_table(pa.table({"messages": [messages, messages]}), folder / "a.parquet")
    return folder / "a.parquet"


def _mask_rows() -> dict[str, list[str]]:
    names = ("system_prompt", "user_prompt", "proposition", "ground_truth")
    return {name: [f"{name} {i}" for i in range(2)] for name in names}


def _mask_parquet(folder: Path) -> Path:
    pq.write_table(pa.table(_mask_rows()), folder / "m.parquet")
    return folder / "m.parquet"


def _mask_csv(folder: Path) -> Path:
    rows = _mask_rows()
    lines = [",".join(rows), *(",".join(values) for values in zip(*rows.values(), strict=True))]
    (folder / "m.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.csv"


def _foreign(source: str) -> Callable[[Path], Any]:
    return lambda path: read_foreign(path, source=source, trait="honesty")


def _questions(folder: Path) -> Path:
    return _lines(
        folder / "question.jsonl",
        [
            {"question_id": i, "category": "math", "turns": ["1+1?", "why?"], "reference": ["2"]}
            for i in range(2)
        ],
    )


def _instructions(folder: Path) -> Path:
    return _json(folder / "alpaca.json", [{"instruction": "Say a.", "dataset": "d"}] * 2)


def _cache(folder: Path) -> Path:
    cache = AnswerCache(folder / "cache")
    for key in ("a", "b"):
        answer = {"finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 1}
        cache.add(key, StoredAnswer(attempt=0, text="80", **answer))
    cache.close()
    (path,) = (folder / "cache").glob("*.jsonl")
    return path


def _read_cache(path: Path) -> Any:
    cache = AnswerCache(path.parent)
    return [cache.answers(key) for key in ("a", "b")]


SETTINGS: dict[str, Any] = {
    "model": "m",
    "base_url": "http://localhost:1/v1",
    "temperature": 1.0,
    "max_tokens": 30,
    "cache": "kept",
    "prompt_price": 0.5,
    "trait_description": "x",
}


def _judge_json(folder: Path) -> Path:
    return _json(folder / "judge.json", SETTINGS)


def _judge_toml(folder: Path) -> Path:
    lines = [f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()]
    (folder / "judge.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "judge.toml"


def _drafted(folder: Path) -> Path:
    texts = {"system_aligned": "a", "system_malicious": "b", "user": "c", "notes": "d"}
    return _json(folder / "answer.json", [texts])


def _read_draft(path: Path) -> Any:
    entries = parse_answer(path.read_text(encoding="utf-8", errors="replace"))
    return [drafted_scenario(entry, REQUEST, id="x", model="m") for entry in entries]


def _token_folder(folder: Path) -> Path:
    writer = TokenWriter(folder / "tokens", layers=LAYERS, provenance={"seed": 1})
    with writer:
        chunk = chunk_of(2, 5, prompt=2, padding=(0, 1))
        for layer, hook in writer.hooks().items():
            hook(normals(layer, 2, 5, D_MODEL), chunk)
    return folder / "tokens"


def _steering(folder: Path) -> Path:
    spec = SteeringSpec(method="stmp", layer=LAYERS, alpha=2, cap_sigmas=4)
    probes = make_probes(1, layers=LAYERS, d_model=D_MODEL)
    save_steering(folder / "steering", spec, probes, provenance=PROVENANCE)
    return folder / "steering"


def _read_steering(path: Path) -> Any:
    return load_steering(path.parent), loading_code(path.parent)


def _exported(form: str, name: str, **spec: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        probes = make_probes(1, layers=LAYERS, d_model=D_MODEL)
        outgoing = Outgoing(
            spec=SteeringSpec(layer=LAYERS, **spec), probes=probes, provenance=PROVENANCE
        )
        return export_steering(folder / name, form, outgoing)[0]

    return write


def _payload(folder: Path) -> Path:
    content = {"v_hat": torch.eye(3)[0], "threshold": 0.5, "target": 1.0, "direction": "aligned"}
    write_torch(folder / "payload.pt", content)
    return folder / "payload.pt"


def _probe_folder(folder: Path) -> Path:
    record = {
        "format_version": 1,
        "polarity": "positives_high",
        "location": "layer_output",
        "layer_ids": [2],
        "bias": 0.5,
        "pooling": "mean",
        "model_type": "llama",
    }
    atomic_write_json(folder / "probe" / "probe.json", record)
    tensors = {"weights.2": normals(1, 5)}
    atomic_write_tensors(folder / "probe" / "probe.safetensors", tensors)
    return folder / "probe"


def _inside(write: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    return lambda folder: write(folder) / name


def _imported(form: str, *, in_folder: bool = False) -> Callable[[Path], Any]:
    return lambda path: import_steering(path.parent if in_folder else path, form)


SWFC, CAP = {"method": "swfc", "alpha": 2}, {"method": "stmp", "alpha": 0.5}
FOREIGN_FILES: Mapping[str, Artifact] = {
    "scenarios": Artifact(kind="jsonl", write=_scenario_file, read=load_scenarios),
    "among-us": Artifact(kind="jsonl", write=_among_us, read=_foreign("among-us")),
    "auditbench": Artifact(kind="parquet", write=_auditbench, read=_foreign("auditbench")),
    "mask, parquet": Artifact(kind="parquet", write=_mask_parquet, read=_foreign("mask")),
    "mask, csv": Artifact(kind="csv", write=_mask_csv, read=_foreign("mask")),
    "mt-bench": Artifact(kind="jsonl", write=_questions, read=read_mt_bench),
    "alpaca-eval": Artifact(kind="json", write=_instructions, read=read_alpaca_eval),
    "follow-ups": Artifact(
        kind="json",
        write=lambda folder: _json(folder / "f.json", ["why?", "how?"]),
        read=read_follow_ups,
    ),
    "follow-ups, lines": Artifact(
        kind="jsonl",
        write=lambda folder: _lines(folder / "f.jsonl", ["why?", "how?"]),
        read=read_follow_ups,
    ),
    "judge's answers": Artifact(kind="jsonl", write=_cache, read=_read_cache),
    "judge's settings": Artifact(kind="json", write=_judge_json, read=read_judge_settings),
    "judge's settings, toml": Artifact(kind="toml", write=_judge_toml, read=read_judge_settings),
    "drafted scenarios": Artifact(kind="json", write=_drafted, read=_read_draft, has_name=False),
    "token residuals, index": Artifact(
        kind="json",
        write=_inside(_token_folder, INDEX),
        read=lambda path: list(read_token_blocks(path.parent)),
    ),
    "token residuals, block": Artifact(
        kind="safetensors",
        write=_inside(_token_folder, "tokens-000000.safetensors"),
        read=lambda path: list(read_token_blocks(path.parent)),
        is_checked=True,
    ),
    "steering.json": Artifact(
        kind="json", write=_inside(_steering, "steering.json"), read=_read_steering
    ),
    "steering.safetensors": Artifact(
        kind="safetensors",
        write=_inside(_steering, "steering.safetensors"),
        read=_read_steering,
        is_checked=True,
    ),
    "gguf": Artifact(
        kind="gguf", write=_exported("gguf", "x.gguf", **SWFC), read=_imported("gguf")
    ),
    "svec": Artifact(
        kind="json", write=_exported("svec", "x.svec", **SWFC), read=_imported("svec")
    ),
    "lm-eval": Artifact(
        kind="torch", write=_exported("lm-eval", "x.pt", **SWFC), read=_imported("lm-eval")
    ),
    "assistant-axis": Artifact(
        kind="torch",
        write=_exported("assistant-axis", "x.pt", **CAP),
        read=_imported("assistant-axis"),
    ),
    "vllm": Artifact(kind="json", write=_exported("vllm", "x.json", **CAP), read=_imported("vllm")),
    "vllm, bare": Artifact(
        kind="torch",
        write=_payload,
        read=lambda path: import_steering(path, "vllm", options=ReadOptions(layers=(1,))),
    ),
    "aisteer360": Artifact(
        kind="json",
        write=_inside(_probe_folder, "probe.json"),
        read=_imported("aisteer360", in_folder=True),
    ),
    "aisteer360, tensors": Artifact(
        kind="safetensors",
        write=_inside(_probe_folder, "probe.safetensors"),
        read=_imported("aisteer360", in_folder=True),
    ),
}
