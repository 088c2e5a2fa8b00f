"""The page on other model classes: its runner, copied from the page, obeys every law."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import ROOT, save_tiny
from interp_steer.conformance import LAWS, Law, Subject
from interp_steer.errors import ModelError
from interp_steer.model import HookedLM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["llama", "mistral"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the code of the page defines."""
    directory = save_tiny(tmp_path_factory.mktemp("tiny") / "tiny", request.param)
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"directory": directory}
    for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S):
        exec(compile(block, "docs/conformance.md", "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_runner_of_the_page_conforms(page: Any, law: Law) -> None:
    assert page.LAWS is LAWS and isinstance(page.lm, HookedLM)
    page.test_my_model_conforms(law)
    assert law.inapplicable(page.subject) is None


def test_a_model_without_a_cache_needs_a_reference(page: Any) -> None:
    with pytest.raises(ModelError, match="ForCausalLM has no run_with_cache; give reference="):
        Subject(lm=page.lm)


def test_its_identity_is_that_of_the_same_model_in_a_bridge(page: Any) -> None:
    identity = page.lm.identity()
    same = HookedLM.load(page.directory).identity()
    assert {name: identity[name] for name in ("weights", "config", "weight_processing")} == {
        name: same[name] for name in ("weights", "config", "weight_processing")
    }
