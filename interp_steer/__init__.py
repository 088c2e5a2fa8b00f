"""Find, steer and diagnose a trait in the residual stream of a language model.

Importing the package loads neither a plotting library nor transformers; both load where they are
first needed. The names live in the modules: `interp_steer.model.HookedLM`,
`interp_steer.probes.fit_probes`, `interp_steer.steering.steer`, and so on.
"""

__version__ = "0.1.0"
