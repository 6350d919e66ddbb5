"""Forecasting: what a regular series will be, with intervals.

Numerics over arrays handed in.  What is computed, why, and how good it is: docs/forecasting.md.
"""
