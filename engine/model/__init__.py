"""The nouns every other part shares: rows in columns, series, refusals."""
