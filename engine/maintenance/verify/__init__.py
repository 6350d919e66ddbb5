"""`tidegauge verify`: a stopped data directory read again from end to end, changing nothing.

`directory` runs the parts in their order and holds the lock; `kinds` names what can be found, and what the engine will
do about each; `report` collects it; `files`, `log`, `segments`, `definitions`, `tiers` and `control` look at one part
each; `raw` gives the raw samples of a range from segments and log.
"""
