"""The README's example runs as it stands there."""

import re
from pathlib import Path

import pytest

from interp_steer.organism import MODEL_DIR

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_the_library_example_runs(capsys: pytest.CaptureFixture[str], organism_lm: object) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert "MODEL_DIR" in example and MODEL_DIR.is_dir()
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("cross-fitted Cohen's d") == 8
    assert "sttp" in printed.lower()
