"""Detectors and rankings over arrays handed in; no storage, no clock (docs/detectors.md)."""
