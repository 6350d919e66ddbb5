"""Benchmarks of Tidegauge: data that can be made again, suites that check the answers they time, comparisons.

``python -m benchmarks --list`` shows the suites; ``benchmarks/README.md`` says what each of them measures.
"""
