"""Scaling: how many instances a target should have now, and why.

Semantics: docs/scaling.md.
"""
