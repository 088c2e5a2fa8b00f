"""Speed against the peers and the limits, as ratios measured in one run on one machine.

`python -m benchmarks` (or `make bench`) runs every script that has a function `measure`, prints one
table and writes `results/DATE-DEVICE.json`. A ratio travels between machines better than a rate,
but not freely: it belongs to the device, the versions and the case named beside it.
"""
