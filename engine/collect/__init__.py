"""Collection from outside: this host's sensors, the agent that pushes them, and its buffer on disk."""
