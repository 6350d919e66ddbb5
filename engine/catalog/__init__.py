"""The catalogue: which tables, fields, tag sets and series exist, and what the engine must remember about itself."""
