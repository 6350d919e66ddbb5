"""What holds for every test: Hypothesis tries the same examples in each run, so that a change answers for itself.

``make properties`` (TIDEGAUGE_RANDOM=1) tries others each time and keeps what failed for the next run.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, print_blob=True)
settings.register_profile("random", print_blob=True)
settings.load_profile("random" if os.environ.get("TIDEGAUGE_RANDOM") else "same")
