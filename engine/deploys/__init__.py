"""Deployments: whether a new version may go on, judged from its metrics beside those of the old one.

Semantics: docs/gate.md.
"""
