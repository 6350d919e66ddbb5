"""The engine: everything between decoded bytes and a decision.  See ARCHITECTURE.md for who may import whom."""
