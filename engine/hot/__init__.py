"""Recent samples in memory: append-only blocks, the newest value of every series, and what has arrived late."""
