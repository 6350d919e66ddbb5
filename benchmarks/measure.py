"""What is measured and how: repeated timings, processor time and memory of process trees, bytes on disk.

Spread is the one measure of noise in every report: half the range of the repeated figures, relative to their
median; from eight figures on, half the range between the quartiles, so that one stray run does not hide a
change.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

LOOPBACK = "127.0.0.1"
RUNS_FOR_QUARTILES = 8
DISK_SECTOR_BYTES = 512
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Summary:
    """Repeated figures of one thing in one unit; ``spread`` is None for a single figure."""

    median: float
    minimum: float
    maximum: float
    p90: float
    spread: float | None
    runs: int


def summarise(figures: Sequence[float]) -> Summary:
    """Return the summary of at least one figure."""
    if not figures:
        raise ValueError("cannot summarise figures: got none, want at least 1")
    ordered = sorted(figures)
    median = statistics.median(ordered)
    spread = None
    if len(ordered) > 1 and median:
        if len(ordered) >= RUNS_FOR_QUARTILES:
            low, _, high = statistics.quantiles(ordered, n=4)
        else:
            low, high = ordered[0], ordered[-1]
        spread = (high - low) / 2.0 / abs(median)
    return Summary(median, ordered[0], ordered[-1], percentile(ordered, 0.9), spread, len(ordered))


def percentile(figures: Sequence[float], fraction: float) -> float:
    """Return the nearest-rank percentile: the smallest figure that ``fraction`` of all are no larger than."""
    if not figures or not 0.0 < fraction <= 1.0:
        raise ValueError(
            f"cannot take a percentile: got {len(figures)} figures and fraction {fraction}, "
            "want at least 1 figure and a fraction in (0, 1]"
        )
    ordered = sorted(figures)
    return ordered[math.ceil(fraction * len(ordered)) - 1]


def time_repeatedly(
    action: Callable[[], object], *, runs: int, least_seconds: float = 0.05, warm_up_runs: int = 1
) -> list[float]:
    """Return seconds a call of ``action``, one figure for each of ``runs`` runs.

    A run calls ``action`` as often as it takes to last ``least_seconds``, so that short calls are not
    measured in ticks of the clock.  The garbage collector is off while a run lasts.
    """
    for _ in range(warm_up_runs):
        action()
    began = time.perf_counter()
    action()
    calls = max(1, math.ceil(least_seconds / max(time.perf_counter() - began, 1e-9)))
    figures = []
    was_enabled = gc.isenabled()
    for _ in range(runs):
        gc.collect()
        gc.disable()
        try:
            began = time.perf_counter()
            for _ in range(calls):
                action()
            figures.append((time.perf_counter() - began) / calls)
        finally:
            if was_enabled:
                gc.enable()
    return figures


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """A process and all its descendants: processor seconds so far, and memory in bytes now.

    Processor time of descendants that have ended and were waited for is included.
    """

    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int
    processes: int


def tree_usage(pid: int) -> TreeUsage:
    """Return the use of process ``pid`` and its descendants; zeros when it is gone."""
    import psutil

    cpu_seconds, rss_bytes, pss_bytes, processes = 0.0, 0, 0, 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                times = process.cpu_times()
                memory = process.memory_full_info()
                cpu_seconds += times.user + times.system + times.children_user + times.children_system
                rss_bytes += memory.rss
                pss_bytes += getattr(memory, "pss", memory.rss)
                processes += 1
    return TreeUsage(cpu_seconds, rss_bytes, pss_bytes, processes)


def peak_rss_bytes(pid: int) -> int:
    """Return the largest resident size that a process has had (``VmHWM``, proc(5)); 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 if sizes else 0


def tree_cpu_seconds(pid: int) -> float:
    """Return only the processor seconds of :func:`tree_usage`, which is much cheaper to read."""
    import psutil

    cpu_seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                times = process.cpu_times()
                cpu_seconds += times.user + times.system + times.children_user + times.children_system
    return cpu_seconds


def tree_pids(pid: int) -> list[int]:
    """Return process ``pid`` and its descendants; empty when it is gone."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root.pid, *(process.pid for process in root.children(recursive=True))]
    return []


def wait_until_quiet(
    pid: int, *, quiet_seconds: float = 1.0, busy_share: float = 0.12, limit_seconds: float = 120.0
) -> float | None:
    """Wait until the tree of ``pid`` used less than ``busy_share`` of a core for ``quiet_seconds``.

    Returns the seconds until that quiet spell began, or None when it did not come within ``limit_seconds``.
    """
    # Processor time is counted in hundredths of a second: a step must be long enough for one of them to be little.
    step_seconds = 0.25
    began = quiet_since = time.perf_counter()
    last_cpu = tree_cpu_seconds(pid)
    while time.perf_counter() - began < limit_seconds:
        time.sleep(step_seconds)
        cpu = tree_cpu_seconds(pid)
        if cpu - last_cpu > busy_share * step_seconds:
            quiet_since = time.perf_counter()
        last_cpu = cpu
        if time.perf_counter() - quiet_since >= quiet_seconds:
            return quiet_since - began
    return None


def allocated_bytes(path: str | Path) -> int:
    """Return the bytes that a file or a whole folder takes on the disk, as ``du`` counts them."""
    path = Path(path)
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.lstat().st_blocks * DISK_SECTOR_BYTES
    return total


def file_bytes(path: str | Path) -> int:
    """Return the summed lengths of a file or of all files in a folder, without the file system's rounding."""
    path = Path(path)
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            if file.is_file():
                total += file.stat().st_size
    return total


def free_port() -> int:
    """Return a TCP port on loopback that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit inside, so that servers are stopped and scratch folders removed on the way out."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def scratch_folder(parent: str | None = None) -> Iterator[Path]:
    """Give a new folder and remove it and all its content at the end, also after a failure."""
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tidegauge-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure depends on besides the code."""

    cores: int
    model: str
    memory_bytes: int
    python: str
    system: str


def this_machine() -> Machine:
    """Return the machine that this process runs on; ``cores`` counts those it may use."""
    import psutil

    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        model=_processor_model(),
        memory_bytes=int(psutil.virtual_memory().total),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def _processor_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def git_commit(folder: Path = REPOSITORY) -> str | None:
    """Return the commit of the checkout, with ``+`` when files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        with suppress(OSError):
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            if done.returncode == 0:
                return done.stdout.strip()
        return None

    if not (folder / ".git").exists():
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return f"{commit}+" if git("status", "--porcelain", "--untracked-files=no") else commit
