"""Build of the native extensions; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Native modules hold byte work and array loops.  Bounds and wraparound checks are off because every
# access goes through the checked cursor or a length tested once on entry (see native/cursor.pxd).
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": False,
}
DEBUG = os.environ.get("TIDEGAUGE_NATIVE_DEBUG") == "1"


def native_extensions() -> list[Extension]:
    """Return one extension for each native/*.pyx, as C++17 and without machine-specific flags."""
    if DEBUG:
        compile_args = ["-O0", "-g", "-std=c++17", "-UNDEBUG"]
    else:
        compile_args = ["-O3", "-std=c++17", "-fno-plt", "-g0"]
    if sys.platform == "darwin":
        compile_args = [argument for argument in compile_args if argument != "-fno-plt"]
    return [
        Extension(
            f"native.{source.stem}",
            [str(source)],
            language="c++",
            extra_compile_args=compile_args,
        )
        for source in sorted(Path("native").glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        native_extensions(),
        compiler_directives=DIRECTIVES,
        nthreads=2,
        annotate=DEBUG,
    ),
    # One compiler at a time takes 110 s, most of an installation.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
