"""What a study will cost before anything is spent: memory, time and disk, from configs alone.

Memory is arithmetic on the model's shape. Time is an estimate, and only as good as its assumptions,
all of which are in `Rate` and are printed: the share of the peak that is reached, all responses of
one length, no prompt shared between rows. A judge's time is not in it.
"""

from dataclasses import dataclass

from interp_steer.model_size import ModelSize
from interp_steer.planned_rows import RowCount

COMPARED = 50
"""Response tokens that the cross-entropy under the unsteered model reads."""
_SCORED_COPIES = 3
"""Logits, probabilities and their order, float32, at a sampling step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast a device is, and what is assumed of it."""

    name: str
    """Of the device."""
    tflops: float
    """Peak of dense arithmetic in the model's dtype, 10^12 operations a second."""
    bandwidth: float
    """Peak of memory, 10^12 bytes a second."""
    memory: float | None
    """Bytes of one device; None where it is not known."""
    compute_share: float = 0.35
    """Share of the arithmetic peak that is reached (assumed: eager attention)."""
    bandwidth_share: float = 0.5
    """Share of the memory peak that is reached (assumed)."""
    layer_seconds: float = 0.0004
    """Time that a layer takes in a call however little it computes (assumed: kernel launches,
    Python, hooks)."""

    def seconds(self, *, flops: float, read: float, n_layers: int) -> float:
        """Time of one call: the slower of arithmetic and memory, and the layers' overhead."""
        arithmetic = flops / (self.tflops * 1e12 * self.compute_share)
        memory = read / (self.bandwidth * 1e12 * self.bandwidth_share)
        return max(arithmetic, memory) + n_layers * self.layer_seconds


RATES = {
    "H200": Rate(name="H200", tflops=989, bandwidth=4.8, memory=141e9),
    "H100": Rate(name="H100", tflops=989, bandwidth=3.35, memory=80e9),
    "A100": Rate(name="A100", tflops=312, bandwidth=2.0, memory=80e9),
    "4090": Rate(name="4090", tflops=165, bandwidth=1.0, memory=24e9),
    "cpu": Rate(name="cpu", tflops=0.5, bandwidth=0.05, memory=None, layer_seconds=0.0001),
}
"""Peaks that vendors publish for bfloat16 without sparsity; of the CPU, a guess for eight cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How long prompts and responses are, and how many run together."""

    prompt_tokens: int = 150
    """Tokens of a prompt (assumed mean)."""
    response_tokens: int = 300
    """Tokens of a response (assumed mean), for time and disk."""
    max_new_tokens: int = 1024
    """Limit on response tokens, for memory."""
    batch_size: int = 64
    """Rows generated together."""
    itemsize: int = 2
    """Bytes of a number of the model's dtype."""

    @property
    def longest(self) -> int:
        """Tokens that a row may come to hold."""
        return self.prompt_tokens + self.max_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the devices while a sweep generates."""

    weights: int
    """Parameters."""
    cache: int
    """Keys, values and states of a batch at its longest."""
    capture: int
    """Pooled residuals of the training responses, float32."""
    working: int
    """Attention scores of a prompt or logits of a step, whichever is larger; roughly."""

    @property
    def total(self) -> int:
        """All of it; there is no optimiser and there are no gradients."""
        return self.weights + self.cache + self.capture + self.working


def estimate_memory(size: ModelSize, work: Workload, *, n_training: int) -> Memory:
    """Return what generating with `work` needs."""
    n, prompt = work.batch_size, work.prompt_tokens
    scores = n * size.n_heads * prompt * prompt * (4 + work.itemsize)
    logits = _SCORED_COPIES * n * size.d_vocab * 4
    return Memory(
        weights=size.weight_bytes(work.itemsize) + size.n_buffers_bytes,
        cache=size.cache_bytes(n_rows=n, n_tokens=work.longest, itemsize=work.itemsize),
        capture=n_training * size.n_layers * size.d_model * 4,
        working=max(scores, logits),
    )


def generation_seconds(size: ModelSize, work: Workload, rate: Rate, *, n_rows: int) -> float:
    """Time to generate `n_rows` responses in batches, every response as long as the mean."""
    weights = size.weight_bytes(work.itemsize)
    total, done = 0.0, 0
    while done < n_rows:
        n = min(work.batch_size, n_rows - done)
        batches = max(1, (n_rows - done) // work.batch_size) if n == work.batch_size else 1
        prompt, mean = work.prompt_tokens, work.prompt_tokens + work.response_tokens / 2
        prefill = size.flops(n_tokens=n * prompt, context=prompt / 2)
        step = size.flops(n_tokens=n, context=mean)
        cache = size.cache_bytes(n_rows=n, n_tokens=int(mean), itemsize=work.itemsize)
        first = rate.seconds(flops=prefill, read=weights, n_layers=size.n_layers)
        every = rate.seconds(flops=step, read=weights + cache, n_layers=size.n_layers)
        total += batches * (first + work.response_tokens * every)
        done += batches * n
    return total


def reading_seconds(
    size: ModelSize, work: Workload, rate: Rate, *, n_rows: int, n_response: int
) -> float:
    """Time to run `n_rows` prompts with `n_response` tokens of response, teacher-forced."""
    n_tokens = work.prompt_tokens + n_response
    n_calls = -(-n_rows // work.batch_size)
    flops = size.flops(n_tokens=n_rows * n_tokens, context=n_tokens / 2) / max(1, n_calls)
    read = size.weight_bytes(work.itemsize)
    return n_calls * rate.seconds(flops=flops, read=read, n_layers=size.n_layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a study."""

    name: str
    """Command that runs it, and what it does."""
    n_rows: int
    """Responses."""
    seconds: float
    """Estimated time on one device."""


def estimate_stages(
    size: ModelSize, work: Workload, rate: Rate, *, rows: RowCount, judge_free: bool
) -> tuple[Stage, ...]:
    """Return the stages that load the model, in their order."""

    def generated(name: str, n_rows: int) -> Stage:
        seconds = generation_seconds(size, work, rate, n_rows=n_rows)
        if judge_free and name.startswith("sweep"):
            seconds += reading_seconds(size, work, rate, n_rows=n_rows, n_response=COMPARED)
        return Stage(name=name, n_rows=n_rows, seconds=seconds)

    reading = reading_seconds(
        size, work, rate, n_rows=rows.training, n_response=work.response_tokens
    )
    return (
        generated("fit: training responses", rows.training),
        Stage(name="fit: projections of their tokens", n_rows=rows.training, seconds=reading),
        generated("sweep: baselines and grid", rows.baselines + rows.grid),
        generated("sweep: controls and the rest", rows.beside),
    )


def estimate_disk(size: ModelSize, work: Workload, *, rows: RowCount) -> dict[str, int]:
    """Bytes of the large artifacts, by file; text and token ids roughly, the rest exactly."""
    tokens = rows.training * (work.prompt_tokens + work.response_tokens)
    return {
        "residuals.safetensors": rows.training * size.n_layers * size.d_model * 4,
        "projections.parquet": tokens * size.n_layers * 4,
        "sweep/*.parquet": rows.sweep * (work.response_tokens * 6 + 400),
    }
