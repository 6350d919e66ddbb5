"""Kernels compiled by numba: loops over many series that are too branchy for NumPy and change too often for Cython.

Importing a module of this package imports numba and compiles its kernels, or loads them from numba's cache.  That takes
from a third of a second to some seconds, so nothing imports them at start-up: ``engine.detection.warmup`` does, in a
background thread, once the server is ready.
"""
