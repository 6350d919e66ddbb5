"""Delivery: notifications on their way from the outbox to their receivers.

Guarantees, retries, body and signature: docs/alerting.md.
"""
