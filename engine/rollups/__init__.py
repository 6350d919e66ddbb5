"""Rollups: which buckets must be recomputed, and the tiers in DuckDB that keep them (docs/formats/rollups.md)."""
