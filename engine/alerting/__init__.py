"""Alerting: threshold rules judged over all series at once, and the alerts that come of it.

Rule semantics, states and notifications: docs/alerting.md.
"""
