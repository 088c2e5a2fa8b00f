"""Inspect (inspect_ai) on a run's steered model: a model provider, a solver, a task and its scorer.

Inspect finds them through the entry point `inspect_ai` of this package (module `registry`), so that
any of its evals runs steered and unsteered. The extra `inspect` installs it; nothing else here
needs it.
"""
