"""What the scripts of `analyses/` and the figures share: a run's artifacts in, numbers out.

Nothing here writes a stage of a run; everything reads finished ones. The causal scan alone needs
the model again. Every table that is made of this says what it is conditional on.
"""
