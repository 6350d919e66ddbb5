"""Alerting rules of Prometheus read and turned into rules of this engine, or refused with a reason."""
