"""Suites: what a steered model does beyond one answer to one scenario of its own set.

Each suite takes a run (probes, operating points), a set of configurations and its own items, writes
rows into RUN/evaluations/SUITE and summarises them with intervals. The frame that all share is
`configurations`, `evaluation`, `speaking` and `summaries`; one module a suite stands on it.
"""
