"""The shape of the package: one-way imports, a light root, no unpickling, one place for hook names.

Every rule is a function of source text, so that each is also shown to fail on a planted breach.
"""

import ast
import builtins
import re
import subprocess
import symtable
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import summary_schema

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "interp_steer"

# Floor by floor: a module imports from floors above its own, never from its own or below.
# A subpackage (`organism`, `analysis`, `plots`) counts as one module here.
FLOORS = (
    ("errors", "names", "config", "narration", "memory", "thinking", "html_tables"),
    ("endpoints", "request_pacing", "command_options", "input_files", "resamples"),
    ("files", "tokens", "logistic", "readability", "kv_cache", "prefix_sharing"),
    ("newton_cg", "newton_factors", "newton_line", "fused_norms"),
    ("resid_taps", "bare_components", "logistic_batch", "scenarios"),
    ("widening", "attached_hooks"),
    ("placement", "loading_errors", "model_support"),
    ("model_loading", "model_size", "presets", "chat_template"),
    ("chat_client", "planes", "labelled", "layer_probe", "tokenization", "sampling"),
    ("model_identity", "token_choice"),
    ("runners",),
    ("forwarding", "hooked_transformer"),
    ("shards", "projection_files", "scenario_sets", "draft_answers"),
    ("live_rows", "wrapping"),
    ("generation",),
    ("model", "pooled_capture"),
    ("residuals",),
    ("layer_fit", "token_files"),
    ("probes",),
    ("projections", "interventions", "scopes"),
    ("specs",),
    ("stand_ins",),
    ("hook_records", "measures", "steering_record"),
    ("layer_hooks",),
    ("trace_reduction",),
    ("steering", "embedders"),
    ("trace_files", "edit_meter", "reference_measures", "steering_files"),
    ("traces", "divergence", "scenario_likeness"),
    ("conformance",),
    ("scenario_lengths", "scenario_draft"),
    ("scenario_check",),
    ("judges", "runs"),
    ("judge_settings", "judge_cache", "judge_prompts", "pairs"),
    ("judge_calls",),
    ("llm_judge",),
    ("cells",),
    ("controls", "point_files"),
    ("sweep_rows",),
    ("prompt_cache", "judged_answers"),
    ("row_measures",),
    ("packs",),
    ("engines", "progress"),
    ("sweep", "ray_engine"),
    ("scenario_clusters", "statistics"),
    ("splits", "intervals"),
    ("scoreboard", "candidates", "assignments", "tournament", "judge_quality"),
    ("selection", "two_fold"),
    ("pareto", "measuring"),
    ("operating_points",),
    ("comparisons",),
    ("guard",),
    ("measured_tables",),
    ("reporting",),
    ("report_text", "report_records"),
    ("table_files", "summary"),
    ("report_tables",),
    ("study",),
    ("fit_stage",),
    ("sweep_plan",),
    ("planned_rows",),
    ("planning",),
    ("sweep_stage", "trace_stage", "steering_trace"),
    ("exchange", "stored_answers"),
    ("trace_blocks", "contestants", "rescoring"),
    ("trace_view", "scenario_check_text"),
    ("scenario_command",),
    ("analysis",),
    ("plots", "tournament_stage", "quality_stage"),
    ("recipes",),
    ("run_figures",),
    ("figure_command", "report"),
    ("organism",),
    ("named_judges",),
    ("engine_choice",),
    ("suites",),
    ("evaluate_command", "inspecting"),
    ("explorer",),
    ("demo", "judge_commands", "rescore_command", "plan_command", "exchange_commands"),
    ("stage_commands", "view_commands"),
    ("cli",),
    ("__main__",),
)
FLOOR = {module: depth for depth, floor in enumerate(FLOORS) for module in floor}

HEAVY = ("plotly", "dash", "transformers", "transformer_lens")
# Two formats of others are torch files: written here alone, read with weights_only=True.
TORCH_WRITER = Path("exchange", "torch_files.py")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HOOK_NAME = re.compile(r"\bhook_(resid|embed|q|k|v|z|out|mlp|attn|pos)|\bblocks\.[{\d]")


def sources() -> list[Path]:
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Top-level module of a file: `organism` for everything below organism/."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(source: str) -> Iterator[str]:
    """Top-level modules of the package that `source` imports, at any depth of the code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"line {node.lineno}: relative import; spell interp_steer.…")
        elif isinstance(node, ast.ImportFrom) and node.module == "interp_steer":
            dotted = [f"interp_steer.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [node.module or ""]
        else:
            continue
        for name in dotted:
            parts = name.split(".")
            if parts[0] == "interp_steer" and parts[1:] and not parts[1].startswith("__version"):
                yield parts[1]


def upward_imports(module: str, source: str) -> list[str]:
    """Imports of `module` that do not point to a floor above its own."""
    return [
        other
        for other in imported_modules(source)
        if other != module and (other not in FLOOR or FLOOR[other] >= FLOOR[module])
    ]


def hook_spellings(source: str) -> list[str]:
    """String literals that spell a hook name; docstrings may speak of them."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    in_f_strings = {
        id(part): part.value
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
        if isinstance(part, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        text = node.value
        opens = text == "blocks." or (id(node) in in_f_strings and text.endswith("blocks."))
        if id(node) not in prose and (opens or HOOK_NAME.search(text)):
            found.append(text)
    return found


def unpickling(source: str) -> list[str]:
    """Imports and calls that can run a file's code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node)
    return found


def _unsafe_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name in ("torch.load", "torch.save") and keywords.get("weights_only") != "True":
        return [name]
    if name.endswith(("read_pickle", "to_pickle")):
        return [name]
    return ["allow_pickle"] if keywords.get("allow_pickle") == "True" else []


def undefined_names(source: str) -> list[str]:
    """Names that are looked up and that neither the module nor Python defines.

    Linters take the axes of jaxtyping shapes for names too; annotations are not looked at here.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    module = symtable.symtable(ast.unparse(tree), "source", "exec")
    known = {*dir(builtins), "__file__", "__path__"}
    known |= {one.get_name() for one in module.get_symbols() if _is_bound(one)}
    found, waiting = set(), [module]
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        found |= {
            one.get_name()
            for one in table.get_symbols()
            if one.is_referenced() and (one.is_global() or (table is module and not _is_bound(one)))
        }
    return sorted(found - known)


def _is_bound(name: symtable.Symbol) -> bool:
    return name.is_assigned() or name.is_imported() or name.is_namespace()


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
class TestEverySource:
    def test_its_module_has_a_floor(self, path: Path) -> None:
        assert module_of(path) in {*FLOOR, "__init__"}, "give the module a floor in FLOORS"

    def test_imports_point_one_way(self, path: Path) -> None:
        module = module_of(path)
        source = path.read_text(encoding="utf-8")
        if module == "__init__":
            assert list(imported_modules(source)) == []
        else:
            assert upward_imports(module, source) == []

    def test_spells_no_hook_name(self, path: Path) -> None:
        if module_of(path) != "names":
            assert hook_spellings(path.read_text(encoding="utf-8")) == []

    def test_unpickles_nothing(self, path: Path) -> None:
        allowed = ["torch.save"] if path.relative_to(PACKAGE) == TORCH_WRITER else []
        assert unpickling(path.read_text(encoding="utf-8")) == allowed

    def test_looks_up_what_there_is(self, path: Path) -> None:
        assert undefined_names(path.read_text(encoding="utf-8")) == []

    def test_says_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    def test_shapes_are_checked_at_run_time(self, path: Path) -> None:
        # Postponed annotations would hide the jaxtyping shapes from the run-time check.
        assert "from __future__ import annotations" not in path.read_text(encoding="utf-8")


def test_the_floors_are_of_modules_that_exist() -> None:
    there = {module_of(path) for path in sources()}
    assert sorted(set(FLOOR) - there) == []


def test_names_is_where_hook_names_are_spelled() -> None:
    assert hook_spellings((PACKAGE / "names.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("probes", "from interp_steer.steering import steer", ["steering"]),
        ("probes", "import interp_steer.steering", ["steering"]),
        ("model", "def f():\n    from interp_steer import probes", ["probes"]),
        ("errors", "from interp_steer.names import resid_post", ["names"]),
        ("model", "from interp_steer.unheard_of import x", ["unheard_of"]),
        ("steering", "from interp_steer.probes import ProbeSet\nimport numpy", []),
        ("cli", "from interp_steer import __version__", []),
    ],
)
def test_a_planted_import_is_seen(module: str, source: str, breach: list[str]) -> None:
    assert upward_imports(module, source) == breach


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ('x = f"blocks.{layer}.hook_resid_post"', True),
        ('x = "blocks." + str(layer)', True),
        ('x = "blocks.5.hook_out"', True),
        ('x = "hook_resid_post"', True),
        ('x = "use_hook_mlp_in"', False),
        ('"""Reads blocks.5.hook_resid_post."""', False),
        ('raise ValueError("too few blocks. Load another model")', False),
    ],
)
def test_a_planted_hook_name_is_seen(source: str, breach: bool) -> None:
    assert bool(hook_spellings(source)) is breach


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("np.load(path, allow_pickle=True)", True),
        ("pd.read_pickle(path)", True),
        ("torch.load(path, weights_only=True)", False),
        ("safetensors.torch.load_file(path)", False),
    ],
)
def test_planted_unpickling_is_seen(source: str, breach: bool) -> None:
    assert bool(unpickling(source)) is breach


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(x):\n    return torch.add(x, x)", ["torch"]),
        ("class A:\n    @property\n    def b(self):\n        return [c for d in self]", ["c"]),
        ("print(later)", ["later"]),
        ("import torch\ndef f(x: 'Float[Tensor, \"row\"]'):\n    return torch.add(x, len(x))", []),
        ("def f():\n    g = 1\n    return lambda: g + H\nH = 2", []),
    ],
)
def test_a_planted_missing_name_is_seen(source: str, missing: list[str]) -> None:
    assert undefined_names(source) == missing


def _loaded_after(statement: str) -> set[str]:
    """Which heavy packages a fresh process has loaded after `statement`."""
    program = f"import sys; {statement}; print(' '.join(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_the_package_stays_light() -> None:
    assert _loaded_after("import interp_steer") == set()


def test_importing_the_core_loads_no_model_code_and_no_plots() -> None:
    core = ("model", "residuals", "probes", "steering", "traces", "sweep", "runs", "selection")
    core += ("conformance",)
    statement = "import " + ", ".join(f"interp_steer.{module}" for module in core)
    assert _loaded_after(statement) == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert _loaded_after("import interp_steer.plots.style") == {"plotly"}


class TestProject:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = tuple(line for line in lock if line and not line.startswith("#"))

    def test_every_line_of_the_lock_pins_one_version(self) -> None:
        loose = [pin for pin in self.pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9a-z.]+", pin)]
        assert loose == []
        assert "torch==2.13.0" in self.pins

    def test_the_lock_has_every_dependency_with_its_extras(self) -> None:
        wanted = [*self.project["dependencies"]]
        extras = dict(self.project["optional-dependencies"])
        laid_over = extras.pop("inspect")
        for extra in extras.values():
            wanted += extra
        assert _missing(wanted, self.pins) == []
        # Inspect's versions contradict this lock's; its own is laid over it.
        over = (ROOT / "requirements-inspect.lock").read_text(encoding="utf-8").splitlines()
        assert _missing(laid_over, over) == []
        assert _missing(laid_over, self.pins) == laid_over

    def test_the_lock_of_the_hooked_venv_has_its_own_transformer_lens_alone(self) -> None:
        text = (ROOT / "requirements-hooked.lock").read_text(encoding="utf-8")
        hooked = [line for line in text.splitlines() if not line.startswith("#")]
        named = {pin.partition("==")[0] for pin in self.pins}
        other = [pin for pin in hooked if pin not in self.pins and pin.partition("==")[0] in named]
        assert other == ["transformer-lens==3.9.0"]
        assert _missing(self.project["dependencies"], [*hooked, "torch==2.13.0"]) == []

    def test_the_version_is_said_once_and_alike(self) -> None:
        init = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
        assert f'__version__ = "{self.project["version"]}"' in init
        assert f"[{self.project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_readme_shows_both_commands_on_its_first_screen(self) -> None:
        screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
        assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in screen}

    def test_links_between_pages_lead_somewhere(self) -> None:
        broken = []
        for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
            links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
            broken += [f"{page.name}: {x}" for x in links if not (page.parent / x).exists()]
        assert broken == []


def _missing(wanted: list[str], pins: Iterable[str]) -> list[str]:
    """Requirements whose package has no pin."""
    locked = {_normal(pin.partition("==")[0]) for pin in pins}
    return [w for w in wanted if _normal(re.split(r"[<>=!~ \[]", w)[0]) not in locked]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _summary() -> dict:
    scores = {"trait": 99.0, "coherence": 100}
    cell = {"layer": 3, "alpha": 12.0, **scores, "recovered": 0.97}
    trait = {
        "aligned": scores,
        "malicious": scores,
        "methods": {m: {"all": cell, "response": cell} for m in summary_schema.METHODS},
        "controls": {
            control: {m: {"mean": 0.02, "max": 0.1} for m in summary_schema.METHODS}
            for control in summary_schema.CONTROLS
        },
    }
    return {
        "traits": {"honesty": trait, "compassion": trait},
        "multiple_choice": 97.5,
        "seconds": {"fit": 12.5},
        "versions": {"torch": "2.13.0"},
        "model": {"id": "organism"},
    }


def test_a_whole_summary_has_no_problems() -> None:
    assert summary_schema.problems(_summary()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("multiple_choice",), 101, "multiple_choice: expected 0 to 100, got 101"),
        (("multiple_choice",), None, "multiple_choice: expected a finite number, got None"),
        (("seconds",), {}, "seconds: expected an object that is not empty"),
        (("traits", "honesty", "aligned"), {}, "traits.honesty.aligned.trait: missing"),
        (
            ("traits", "compassion", "methods", "stmp", "all", "recovered"),
            float("nan"),
            "traits.compassion.methods.stmp.all.recovered: expected a finite number, got nan",
        ),
        (
            ("traits", "honesty", "controls", "random_direction", "swfc"),
            {"mean": 0.1},
            "traits.honesty.controls.random_direction.swfc.max: missing",
        ),
    ],
)
def test_a_broken_summary_is_refused_by_field(path: tuple, value: object, said: str) -> None:
    import copy

    summary = copy.deepcopy(_summary())
    here = summary
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    assert said in summary_schema.problems(summary)


class TestDocumentedColumns:
    page = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")

    def test_traces(self) -> None:
        from interp_steer.trace_files import TRACE_SCHEMA

        table = self.page.partition("## traces")[2].partition("\n## ")[0]
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(
            TRACE_SCHEMA.names
        )

    def test_sweep_responses_and_projections(self) -> None:
        from interp_steer.fit_stage import RESPONSE_SCHEMA
        from interp_steer.projections import PROJECTION_SCHEMA
        from interp_steer.sweep import SWEEP_SCHEMA

        for schema in (SWEEP_SCHEMA, RESPONSE_SCHEMA, PROJECTION_SCHEMA):
            assert [name for name in schema.names if f"`{name}`" not in self.page] == []
