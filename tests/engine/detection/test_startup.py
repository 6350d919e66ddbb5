"""numba must not be loaded before the first tick: it would delay the first write and the first alert."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_imports_numba_at_start() -> None:
    code = (
        "import sys, tempfile\n"
        "import api.app, tidegauge.lab\n"
        "import tidegauge\n"
        "with tempfile.TemporaryDirectory() as place, tidegauge.open(place) as db:\n"
        "    db.write('cpu,host=a usage=1')\n"
        "    db.sql('SELECT count(*) AS n FROM anomalies')\n"
        "print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
