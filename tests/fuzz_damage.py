"""Ways to damage a file: bytes that flip, files that are cut, values that nobody expects.

Everything is drawn from one `random.Random`, so that Hypothesis can shrink it and a script can
repeat it from a seed.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes

NESTED = 100_000
"""Levels of nesting, far beyond any recursion limit."""


def _nest(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    -0.0,
    10**9,
    2**63,
    2**64,
    -(2**70),
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    " ",
    "x",
    "\0",
    "../../etc/passwd",
    "/dev/zero",
    "/etc/passwd",
    "a" * 5000,
    "\ud800",
    "<b>&",
    "http://[x",
    "~nobody-of-that-name/x",
    "prefill:" + "9" * 5000,
    "first:" + "9" * 5000,
    "e\u0301",
    "9" * 5000,
    [],
    {},
    [[]],
    [{}],
    {"": None},
    {"a": {"b": [1]}},
    [None],
    [1, "x"],
    ["a", "a"],
    [[1.0]],
    _nest(400),
)
"""Values of JSON of every type, for any place."""


def damaged(kind: str, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done (bytes or structure) and the damaged file."""
    make = STRUCTURES.get(kind)
    if make is None or rng.random() < 0.4:
        return "bytes", damage_bytes(content, rng)
    try:
        return "structure", make(content, rng)
    except (ValueError, TypeError, OverflowError, RuntimeError, pa.ArrowException, SafetensorError):
        return "bytes", damage_bytes(content, rng)  # this damage cannot be written down


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to four changes of bytes, most of them near the beginning or the end."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_BYTE_CHANGES)(data, rng)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    if not data:
        return 0
    near = min(len(data), 400)
    spots = (rng.randrange(near), len(data) - 1 - rng.randrange(near), rng.randrange(len(data)))
    return rng.choice(spots)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start : start + rng.choice((1, 2, 4, 8))] = rng.choice((b"\xff", b"\0")) * rng.choice(
        (1, 2, 4, 8)
    )


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice((1, 8, 100)))


def _insert(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    piece = rng.choice((b"\xff\xfe", b"\0", b"\xc3\x28", b"\n", b'"', b"NaN", b"1e999", b"{", b"["))
    data[start:start] = piece


def _remove(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.randint(1, 20)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = data[start : start + rng.randint(1, 60)]


_BYTE_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip,) * 4,
    *(_overwrite, _cut, _extend, _insert, _remove, _repeat),
)


# ---------------------------------------------------------------- values of JSON


def changed_value(value: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """`value` with something else at one place, at whatever depth."""
    here, steps = value, []
    while isinstance(here, dict | list) and here and (not steps or rng.random() < 0.8):
        step = rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        steps.append((here, step))
        here = here[step]
    if not steps:
        return rng.choice(values)
    parent, step = steps[-1]
    way = rng.randrange(5)
    if way == 0:
        del parent[step]
    elif way == 1 and isinstance(parent, dict):
        parent[str(rng.choice(("other", "", "\ud800", step)))] = parent.pop(step)
    elif way == 1:
        parent.append(parent[step])
    elif way == 2:
        parent[step] = [parent[step]] if rng.random() < 0.5 else {"x": parent[step]}
    else:
        parent[step] = rng.choice(values)
    return value


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON file with another value somewhere, a key twice, or very deep."""
    if rng.random() < 0.05:
        opened = rng.choice(("[", '{"a":'))
        return (opened * NESTED).encode()
    value = json.loads(content)
    if rng.random() < 0.1 and isinstance(value, dict) and value:
        text, key = json.dumps(value), rng.choice(list(value))
        again = json.dumps(rng.choice(VALUES))
        return f"{text[:-1]}, {json.dumps(key)}: {again}}}".encode()
    if rng.random() < 0.05:
        return json.dumps(rng.choice(VALUES)).encode()
    return json.dumps(changed_value(value, rng)).encode()


def damage_lines(content: bytes, rng: random.Random) -> bytes:
    """JSONL with one line damaged, doubled or lost."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    way = rng.randrange(6)
    if way == 0:
        lines.insert(place, lines[place])
    elif way == 1:
        del lines[place]
    elif lines[place]:
        lines[place] = damage_json(lines[place], rng)
    return b"\n".join(lines)


# ---------------------------------------------------------------- safetensors


def damage_tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header, or with other tensors of which its header is true."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    way = rng.randrange(4)
    if way == 0:
        absurd = rng.choice((0, 1, 7, len(content), 10**8, 2**32, 2**63 - 1, 2**64 - 1))
        return struct.pack("<Q", absurd) + content[8:]
    if way == 1:
        odd = (*VALUES, "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", [2**40, 2**40])
        text = json.dumps(changed_value(header, rng, odd)).encode()
        return struct.pack("<Q", len(text)) + text + data
    tensors = load_tensors(content)
    name = rng.choice(list(tensors))
    other = rng.choice(_TENSOR_CHANGES)(tensors.pop(name), rng)
    if other is not None:
        tensors["other" if rng.random() < 0.1 else name] = other.contiguous()
    metadata = header.get("__metadata__", {})
    kept = {k: v for k, v in metadata.items() if "sha256" not in k}  # as older versions wrote it
    if kept and rng.random() < 0.2:
        kept[rng.choice(list(kept))] = rng.choice(("", "{}", "[]", "null", "1", '{"a": NaN}'))
    return tensor_bytes(tensors, kept)


def _with_value(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    tensor = tensor.clone()
    odd = (0, -1, 2**31, float("nan"), float("inf"), 1e38)
    if tensor.numel():
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(odd)
    return tensor


_TENSOR_CHANGES: tuple[Callable[[torch.Tensor, random.Random], torch.Tensor | None], ...] = (
    lambda _t, _rng: None,
    lambda t, rng: t.to(rng.choice((torch.float64, torch.float16, torch.int64, torch.bool))),
    lambda t, _rng: t[:0],
    lambda t, _rng: t[None],
    lambda t, _rng: t.reshape(-1),
    lambda t, _rng: t.transpose(0, -1),
    lambda t, _rng: torch.cat([t, t]),
    lambda _t, _rng: torch.zeros(()),
    lambda t, _rng: t * 0,
    *(_with_value,) * 4,
)


# ---------------------------------------------------------------- parquet


def damage_table(content: bytes, rng: random.Random) -> bytes:
    """A whole parquet file with other columns, types, rows or values."""
    table = pq.read_table(io.BytesIO(content))
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    n = table.num_rows
    odd = rng.choice([v for v in VALUES if not isinstance(v, list | dict)])
    columns: tuple[Callable[[], pa.Table], ...] = (
        lambda: table.drop_columns([name]),
        lambda: table.rename_columns(
            [rng.choice(("x", "")) if c == name else c for c in table.column_names]
        ),
        lambda: table.append_column("extra", column),
        lambda: table.append_column(name, column),
        lambda: table.slice(0, 0),
        lambda: pa.concat_tables([table, table]),
        lambda: table.set_column(place, name, pa.nulls(n, column.type)),
        lambda: table.set_column(place, name, pa.nulls(n)),
        lambda: table.set_column(place, name, column.cast(pa.string())),
        lambda: table.set_column(place, name, column.cast(pa.float64())),
        lambda: table.set_column(place, name, pa.array([[v] for v in column.to_pylist()])),
        lambda: table.set_column(place, name, pa.array([{"a": 1}] * n)),
        lambda: table.set_column(place, name, column.dictionary_encode()),
        lambda: table.set_column(place, name, pa.array([odd] * n)),
        lambda: table.set_column(
            place, name, pa.array([odd, *column.to_pylist()[1:]], column.type)
        ),
        lambda: pa.table({}),
    )
    sink = io.BytesIO()
    pq.write_table(rng.choice(columns)(), sink)
    return sink.getvalue()


# ---------------------------------------------------------------- torch files


def torch_values() -> tuple[Any, ...]:
    """What may stand in a torch file that is read with weights_only, and should not here."""
    laughs: Any = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    looped: list[Any] = []
    looped.append(looped)
    return (
        *VALUES,
        laughs,
        looped,
        (1, 2),
        {1, 2},
        1j,
        b"x",
        torch.zeros(()),
        torch.zeros(0),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
        torch.full((4,), float("nan")),
        torch.ones(4, requires_grad=True),
        torch.ones(4).to_sparse(),
        torch.empty(4, device="meta"),
        torch.ones(1).expand(2**40),
        torch.ones(1, dtype=torch.float64).expand(2**31),
        torch.nn.Parameter(torch.ones(4)),
        torch.float32,
        torch.Size([1]),
    )


def damage_torch(content: bytes, rng: random.Random) -> bytes:
    """A torch file with another value, or a zip archive with other members."""
    if rng.random() < 0.3:
        return _damage_archive(content, rng)
    value = torch.load(io.BytesIO(content), weights_only=True)
    changed = changed_value(value, rng, torch_values())
    sink = io.BytesIO()
    torch.save(changed, sink)
    return sink.getvalue()


def _damage_archive(content: bytes, rng: random.Random) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            body = old.read(name)
            if name != chosen:
                new.writestr(name, body)
                continue
            way = rng.randrange(4)
            if way == 0:
                new.writestr(f"../../{name}", body)
            elif way == 1:
                new.writestr(f"/tmp/{name}", body)
            elif way == 2:
                new.writestr(name, damage_bytes(body, rng))
        new.writestr("../../../tmp/escaped", b"x")
    return sink.getvalue()


STRUCTURES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "json": damage_json,
    "jsonl": damage_lines,
    "safetensors": damage_tensors,
    "parquet": damage_table,
    "torch": damage_torch,
}
"""By kind of file, how to damage it as a whole file."""
