"""Micro benchmarks: one ``bench_*.py`` for a module, each with ``cases()`` as :mod:`benchmarks.micro_suite`
says.
"""
