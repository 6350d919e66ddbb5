"""Rules, channels and who is told taken up from a changed file while the server runs; a bad file changes nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from engine.alerting.watch import Changes
from engine.clock import Clock
from engine.config import Config, Watch, load_config
from engine.config_rule_files import rule_files
from engine.errors import BadConfig, BadRequest, TidegaugeError
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge")

#: What is taken up beside rules and channels: whole tables, and settings of ``[watch]``.
_PARTS = ("routes", "escalation", "inhibit")
_WATCH = (
    "default_rules",
    "confirm",
    "rule_files",
    "default_routes",
    "default_escalation",
    "flap_changes",
    "flap_window",
)
#: What a file looked like: path, and modification time, size and file number, None when it was not there.
_Look = tuple[str, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class RuleSource:
    """Where the rules in force come from.

    ``loaded_ns``: when they were taken up.  ``problem``: why the last attempt failed, None when it did not.
    ``waiting``: other parts of the configuration that have changed in the file and count from the next start on.
    """

    path: str | None
    loaded_ns: int
    problem: str | None = None
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has changed.  ``parts``: tables of the configuration that say something else now, beside these;
    ``given_up``: how many notifications waited for each channel that is no longer configured."""

    rules: Changes
    channels: Changes
    parts: tuple[str, ...] = ()
    given_up: Mapping[str, int] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        parts = "".join(f"; {name} changed" for name in self.parts)
        lost = "".join(f"; {count} notifications for {name} were given up" for name, count in self.given_up.items())
        return f"rules: {self.rules.sentence}; channels: {self.channels.sentence}{parts}{lost}"


class Reloader:
    """Reads the configuration ``path`` again when it or one of its rule files has changed, and hands it on.

    ``running``: the configuration that the server was started with.  ``take_up``: puts rules, channels and who is told
    in force, all or, raising, nothing; returns what has changed of rules and channels, and how many notifications were
    given up by channel.  Methods may be called from any thread.
    """

    def __init__(
        self,
        path: str | None,
        running: Config,
        take_up: Callable[[Config], tuple[Changes, Changes, dict[str, int]]],
        *,
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._running, self._current, self._take_up = running, running, take_up
        self._vitals, self._clock = vitals, clock
        self._lock = threading.Lock()
        self._patterns = running.watch.rule_files
        self._seen = self._look(path)
        self.source = RuleSource(path, clock.now_ns())
        vitals.rules_current.set(1)

    def _look(self, path: str | None) -> tuple[_Look, ...]:
        if path is None:
            return ()
        found: list[_Look] = []
        for each in (path, *rule_files(self._patterns, path)):
            try:
                stat = os.stat(each)
            except OSError:
                found.append((each, None))
            else:
                found.append((each, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        return tuple(found)

    def poll(self) -> None:
        """Read the files again if they look otherwise than last time; what is wrong with them is in the log."""
        if self._look(self.source.path) != self._seen:
            with contextlib.suppress(TidegaugeError):
                self.reload()

    def reload(self) -> Reloaded:
        """Read the files again and put in force what can change while the server runs.

        Raises BadConfig, and changes nothing, when something is wrong with the files; BadRequest when the
        server was started without a configuration file.
        """
        with self._lock:
            path = self.source.path
            if path is None:
                raise BadRequest("cannot reload rules: the server was started without a configuration file (--config)")
            # Before reading: what changes meanwhile is seen as a change next time.
            self._seen = self._look(path)
            try:
                config = load_config(path)
                rules, channels, given_up = self._take_up(config)
            except TidegaugeError as error:
                reasons = error.problems if isinstance(error, BadConfig) else ()
                problem = "; ".join(reasons) or error.message
                self.source = RuleSource(path, self.source.loaded_ns, problem, self.source.waiting)
                LOG.error("rules and channels stay as they are: %s", problem)
                self._vitals.rules_current.set(0)
                self._vitals.rule_reloads.labels("failed").inc()
                raise
            self._patterns = config.watch.rule_files
            self._seen = (*self._seen[:1], *self._look(path)[1:])
            waiting = _waiting(self._running, config)
            self.source = RuleSource(path, self._clock.now_ns(), None, waiting)
            self._vitals.rules_current.set(1)
            self._vitals.rule_reloads.labels("done").inc()
            parts = tuple(name for name in _PARTS if getattr(config, name) != getattr(self._current, name))
            reloaded = Reloaded(rules, channels, parts, given_up)
            self._current = config
            LOG.info("reloaded: %s", reloaded.sentence)
            if waiting:
                LOG.warning("changed in %s, but counts from the next start on: %s", path, ", ".join(waiting))
            return reloaded


def _waiting(running: Config, config: Config) -> tuple[str, ...]:
    """Return the parts of the configuration that count from a start on and in which the two differ."""

    def rest(each: Config) -> Config:
        watch = msgspec.structs.replace(each.watch, **{name: getattr(Watch(), name) for name in _WATCH})
        # Where the server listens may have come from the command line.
        server = msgspec.structs.replace(each.server, listen="", public_url=None)
        return msgspec.structs.replace(
            each, rules=(), channels=(), **dict.fromkeys(_PARTS, ()), watch=watch, server=server
        )

    one, other = rest(running), rest(config)
    return tuple(name for name in Config.__struct_fields__ if getattr(one, name) != getattr(other, name))
