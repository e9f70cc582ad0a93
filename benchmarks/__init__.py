"""Speed, as ratios measured in one run against named peers: ``make bench``, that is ``python -m benchmarks``."""
