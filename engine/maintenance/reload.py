"""Rules taken up from a changed file while the server runs; a bad file keeps the rules there are."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from engine.alerting.watch import RuleChanges
from engine.clock import Clock
from engine.config import Config, Rule, load_config
from engine.config_rule_files import rule_files
from engine.errors import BadConfig, BadRequest, TidegaugeError
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge")

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


class RuleReloader:
    """Reads the configuration ``path`` again when it or one of its rule files has changed, and hands on its rules.

    ``running``: the configuration that the server was started with.  Methods may be called from any thread.
    """

    def __init__(
        self,
        path: str | None,
        running: Config,
        replace: Callable[[tuple[Rule, ...]], RuleChanges],
        *,
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._running, self._replace, self._vitals, self._clock = running, replace, vitals, clock
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

    def reload(self) -> RuleChanges:
        """Read the files again and put their rules in force.

        Raises BadConfig, and keeps the rules there are, when something is wrong with the files; BadRequest when the
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
                self._usable(config)
                changes = self._replace(config.effective_rules)
            except TidegaugeError as error:
                reasons = error.problems if isinstance(error, BadConfig) else ()
                problem = "; ".join(reasons) or error.message
                self.source = RuleSource(path, self.source.loaded_ns, problem, self.source.waiting)
                LOG.error("the rules stay as they are: %s", problem)
                self._vitals.rules_current.set(0)
                self._vitals.rule_reloads.labels("failed").inc()
                raise
            self._patterns = config.watch.rule_files
            self._seen = (*self._seen[:1], *self._look(path)[1:])
            waiting = _waiting(self._running, config)
            self.source = RuleSource(path, self._clock.now_ns(), None, waiting)
            self._vitals.rules_current.set(1)
            self._vitals.rule_reloads.labels("done").inc()
            LOG.info("rules reloaded: %s", changes.sentence)
            if waiting:
                LOG.warning("changed in %s, but counts from the next start on: %s", path, ", ".join(waiting))
            return changes

    def _usable(self, config: Config) -> None:
        known = {channel.name for channel in self._running.channels}
        for rule in config.effective_rules:
            missing = sorted(set(rule.channels) - known)
            if missing:
                raise BadConfig(
                    f"cannot reload rules: rule {rule.name!r} notifies the channel {missing[0]!r}, which the running"
                    " server does not have; channels are taken up at the next start"
                )


def _waiting(running: Config, config: Config) -> tuple[str, ...]:
    """Return the parts of the configuration, other than its rules, in which the two differ."""

    def rest(each: Config) -> Config:
        watch = msgspec.structs.replace(each.watch, default_rules=True, rule_files=())
        # Where the server listens may have come from the command line.
        server = msgspec.structs.replace(each.server, listen="")
        return msgspec.structs.replace(each, rules=(), watch=watch, server=server)

    one, other = rest(running), rest(config)
    return tuple(name for name in Config.__struct_fields__ if getattr(one, name) != getattr(other, name))
