"""Theory solvers: numpy and scipy only, one module a system, functions of a problem."""
