"""The thin layer over the engine: HTTP, the command line and the Python client."""
