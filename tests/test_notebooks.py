"""The notebooks of the documentation: stored without outputs, and run from the first cell on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DRAWN = {
    "quick-start": ("probes of 8 layers", "interp-steer-trace", "plotly", "trait 100"),
    "choosing-a-layer": ("probes of 8 layers", "operating points", "control: random", "plotly"),
    "which-tokens-fired": ("interp-steer-trace", "malicious", "plotly"),
}
"""What each has to show once it was run."""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_they_are_the_ones_that_the_documentation_names():
    page = (FOLDER.parent / "notebooks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"notebooks/([a-z-]+)\.ipynb", page))
    assert named == set(DRAWN) == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_stored_without_outputs(path: Path):
    book = read(path)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    for cell in book["cells"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert (FOLDER / target).exists(), target


RUN = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

notebook, executed, connection = sys.argv[1:]
book = nbformat.read(notebook, as_version=4)
# Sockets that are files: no port is opened.
manager = AsyncKernelManager(
    kernel_name="python3", transport="ipc", connection_file=connection
)
NotebookClient(book, km=manager, timeout=300).execute()
nbformat.write(book, executed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path: Path, tmp_path: Path):
    for package in ("ipykernel", "ipywidgets", "nbclient", "nbformat"):
        pytest.importorskip(package, reason="needs the extra notebook")
    # Nothing of the user's own is read, nothing is left behind.
    places = dict.fromkeys(("HOME", "TMPDIR", "IPYTHONDIR"), str(tmp_path))
    executed = tmp_path / "executed.ipynb"
    with TemporaryDirectory(prefix="ipc", dir="/tmp") as sockets:  # their paths may not be long
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(path), str(executed), f"{sockets}/k.json"],
            cwd=tmp_path,
            env={**os.environ, **places},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    code = [cell for cell in read(executed)["cells"] if cell["cell_type"] == "code"]
    shown = json.dumps([cell["outputs"] for cell in code])
    assert [what for what in DRAWN[path.stem] if what not in shown] == []
    said = [o["text"] for cell in code for o in cell["outputs"] if o.get("name") == "stderr"]
    assert said == []
