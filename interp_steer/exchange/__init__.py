"""Steering in other people's formats: written for their tools, read back from them.

`formats.export_steering` and `formats.import_steering` are the two doors; each format has a module
of its own and says what it can carry. A vector to add is all that most of them hold: a gate, a
target or a cap is refused there with the formats that can, never dropped in silence. That a file is
read by another tool does not mean that the tool steers at the same place: every module says at
which site and under which number its tool applies a layer.
"""
