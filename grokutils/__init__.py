"""Theory solvers and ensemble samplers for the grokking companion book."""

__version__ = "0.1.0"
