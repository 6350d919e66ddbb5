"""Native core: the loops between socket and disk, compiled at build time and run without the GIL."""
