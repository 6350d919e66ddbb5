"""Builds, opens, recovers, starts and closes the parts of an engine."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from engine.alerting.alerts import Alert
from engine.alerting.silences import SilenceStore
from engine.alerting.store import AlertStore
from engine.alerting.watch import Changes, RuleWatch
from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.catalog import Catalog
from engine.catalog.control import ControlDatabase
from engine.catalog.pooled import POOLED_TABLES
from engine.catalog.tokens import TokenStore
from engine.clock import NS_PER_DAY, Clock, SystemClock
from engine.config import Config
from engine.config_units import Duration
from engine.delivery.dashboard import kept_notifications
from engine.delivery.outbox import Outbox
from engine.deploys.store import DeployStore
from engine.detection.findings import FindingStore
from engine.detection.store import AnomalyStore
from engine.disk.filesystem import Bytes, FileSystem
from engine.disk.guard import DiskGuard
from engine.disk.real import RealFileSystem
from engine.errors import (
    Cancelled,
    DiskFull,
    QueryLimit,
    QueueFull,
    Recovering,
    TidegaugeError,
)
from engine.forecasting.runner import ForecastAnswer, ForecastQuery
from engine.forecasting.runner import run as run_forecast
from engine.hot.store import HotStore
from engine.ingest.admission import Admission
from engine.ingest.arrow import ArrowDecoder
from engine.ingest.batch import WriteResult
from engine.ingest.lines import LinesDecoder
from engine.ingest.objects import ObjectsDecoder
from engine.ingest.pipeline import Pipeline
from engine.ingest.prometheus import RemoteWriteBodies, TextBodies
from engine.maintenance.bottlenecks import BottleneckFinder, Question, Report
from engine.maintenance.catalogue import CatalogueKeeper
from engine.maintenance.compact import Compactor
from engine.maintenance.consistency import check_segments
from engine.maintenance.delete import Deleted, Deleter
from engine.maintenance.deliver import Deliverer
from engine.maintenance.detect import STATE_FILE, AnomalyFinder
from engine.maintenance.inputs import RuleInputs
from engine.maintenance.kept import KeptFields
from engine.maintenance.rebuild import ROLLUP_FILE, LostRanges
from engine.maintenance.recover import Replay, check_log
from engine.maintenance.reload import Reloader
from engine.maintenance.retain import Retainer
from engine.maintenance.scale import Decider
from engine.maintenance.scheduler import Job, Scheduler
from engine.maintenance.seal import Sealer
from engine.maintenance.subjects import SUBJECTS_FILE, SubjectFinder
from engine.maintenance.watch import Watcher
from engine.model.matchers import Matcher
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.query.answers import SqlStream
from engine.query.deadlines import Stop
from engine.query.exports import Exports
from engine.query.foundrows import FoundRows
from engine.query.link import LocalLink, ProcessLink, QueryLink
from engine.query.newest import NewestReader
from engine.query.observe import Observer
from engine.query.panels import PanelReader
from engine.query.pasts import Pasts
from engine.query.range import RangeAnswer, RangeQuery, RangeReader
from engine.query.rowstream import RowsStream
from engine.query.samples import SampleStore
from engine.query.turns import Turns
from engine.query.wide import RowsQuery, RowsReader
from engine.rollups.dirty import DirtyBuckets
from engine.rollups.store import TierStats
from engine.runtime.analyst import Analyst
from engine.runtime.evidence import evidence
from engine.runtime.figures import show
from engine.runtime.findings import FINDINGS
from engine.runtime.reader import Reader
from engine.runtime.result import SqlResult
from engine.runtime.status import readiness_status, rules_status, storage_status
from engine.runtime.tieraccess import TierAccess
from engine.runtime.upkeep import Upkeep
from engine.scaling.policy import Decision
from engine.scaling.store import ScaleStore
from engine.segments.manifest import ManifestStore
from engine.vitals import Vitals
from engine.wal.writer import WalWriter

LOG = logging.getLogger("tidegauge")

FLUSH_SECONDS = 5.0
SEAL_CHECK_SECONDS = 1.0
ARRANGE_SECONDS = 1.0
RETAIN_SECONDS = 60.0
CATALOGUE_SECONDS = 2.0
COMPACT_SECONDS = 60.0
PRUNE_SECONDS = 3_600.0
TOKENS_SECONDS = 1.0
#: Alerts and decisions that ended are remembered for this long.
FINDINGS_KEPT_NS = 2 * 365 * NS_PER_DAY
RELOAD_SECONDS = 5.0
#: A decision is answered for this many ticks before asking for it makes a new one.
DECISION_TICKS = 3
#: Modules of functions that statements see beside those of the query part.
SQL_EXTENSIONS = ("engine.detection.sql", "engine.forecasting.sql")
#: The jobs that run while the log is replayed; the others judge samples or remove them, and wait until all are there.
WITHOUT_WHOLE_SAMPLES = ("rollup", "arrange", "seal", "scale", "tokens")
#: Writes are turned away once the hot store holds this many times its limit: sealing cannot keep up.
HOT_CEILING = 3


class Engine:
    """One open data directory.  Every public method may be called from any thread."""

    def __init__(
        self,
        data_dir: str,
        config: Config,
        *,
        clock: Clock | None = None,
        fs: FileSystem | None = None,
        mode: Literal["server", "embedded", "snapshot"] = "server",
        wait: bool = True,
        config_path: str | None = None,
    ) -> None:
        """``wait``: return when the log has been replayed, not as soon as writes can be taken.

        ``mode``: "snapshot" is for a directory that is thrown away afterwards: no job runs, nothing is kept.
        ``config_path``: the file that ``config`` came from; its rules are taken up again when it changes.
        """
        self._mode = mode
        self._config_path = config_path
        self.config = config
        self.clock = clock or SystemClock()
        self.vitals = Vitals()
        self.fs = fs or RealFileSystem()
        self.root = os.path.abspath(data_dir)
        self._closing = threading.Lock()
        #: Whether it has been closed, or is being.
        self.closed = False
        self._upkeep = Upkeep(self)
        started = self.clock.monotonic()
        self.fs.makedirs(self.root)
        self.guard = DiskGuard(self.fs, self.root, reserve_bytes=int(config.storage.disk_reserve), clock=self.clock)
        self._lock = self.fs.lock(self._path("LOCK"))
        try:
            self._open_catalog()
            self._open_link(mode)
            self._open_storage()
            self._open_queries()
            self._open_watching()
            self._start_jobs()
        except BaseException:
            if hasattr(self, "link"):
                self.link.close()
            self._lock.release()
            raise
        show(self)
        seconds = self.clock.monotonic() - started
        LOG.info("opened %s in %.3f s; %d bytes of log to replay", self.root, seconds, self.recovery.bytes_total)
        # In a snapshot a torn end of the log is the ordinary case; its owner tells what is wrong with the rest.
        for sentence in (*self.recovery.log.sentences(), *(each.message for each in self.manifest.findings)):
            LOG.log(
                logging.INFO if mode == "snapshot" else logging.WARNING, "while opening %s: %s", self.root, sentence
            )
        if wait:
            try:
                self.recovery.wait()
            except BaseException:
                self.close()
                raise

    @classmethod
    def open(cls, data_dir: str, config: Config | None = None, **options: Any) -> Engine:
        """Open a data directory, creating it where there is none, and recover what the log holds.

        With ``wait=False`` it returns before the log has been replayed: writes are taken, reading samples raises
        Recovering until :attr:`recovery` is no longer active.
        Raises Unavailable when another process has it open, Damage when what is there cannot be read.
        """
        return cls(data_dir, config or Config(), **options)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    # --- opening

    def _open_catalog(self) -> None:
        self.catalog = Catalog(self.fs, self._path("catalog.log"))
        self.catalog.load()

    def _open_link(self, mode: str) -> None:
        query = self.config.query
        if mode != "server" or query.in_process:
            self.link: QueryLink = LocalLink(
                self._path(ROLLUP_FILE),
                query,
                self.catalog.native,
                pooled_tables=POOLED_TABLES,
                findings=FINDINGS,
                extensions=SQL_EXTENSIONS,
                fs=self.fs,
            )
        else:
            process = ProcessLink(
                self._path(ROLLUP_FILE),
                query,
                self.catalog.native,
                pooled_tables=POOLED_TABLES,
                findings=FINDINGS,
                extensions=SQL_EXTENSIONS,
            )
            process.start()
            self.link = process

    def _open_storage(self) -> None:
        fs, storage = self.fs, self.config.storage
        fs.makedirs(self._path("wal"))
        self.manifest = ManifestStore(fs, self.root)
        manifest = self.manifest.load()
        # A listed file that is missing or has another size is told now, not when a query first needs it.
        self.manifest.findings += [each for each in self.manifest.check() if each.kind in ("missing", "damaged")]
        check_segments(fs, self.root, self.catalog, manifest, self._path("catalog.log"))
        self.hot = HotStore()
        self.samples = SampleStore(
            fs,
            self.root,
            self.hot,
            manifest.segments,
            manifest.deletions,
            cache_bytes=int(self.config.query.cache),
        )
        self.dirty = DirtyBuckets(
            self.samples.parts,
            self._upkeep.write,
            KeptFields(self.catalog, self.config.rollups),
            self.samples.expected_sources,
        )
        self.tiers = TierAccess(
            self.link,
            self.dirty,
            flush=self.flush_rollups,
            lag=self._upkeep.lag,
            cache_bytes=int(self.config.query.tier_cache),
        )
        sealed = max((meta.sealed_through for meta in manifest.segments), default=0)
        floor = self.hot.applied_sequence = manifest.wal_floor
        checked = check_log(fs, self._path("wal"), self.catalog, after_sequence=floor)
        last = max(checked.last_sequence, sealed, floor)
        if not checked.report.clean or (floor and not checked.frames):
            # Part of the log is gone.  No number is given twice that the tiers take for included.
            last = max(last, self._upkeep.included())
        if last > max(checked.last_sequence, floor):
            # Segments or tiers have batches that the log should still have.
            checked.report.missing.append((max(checked.last_sequence, floor) + 1, last))
        self.wal = WalWriter(fs, self._path("wal"), next_sequence=last + 1, segment_bytes=int(storage.wal_segment))
        self.admission = Admission(self.catalog, self.config.ingest, self.config.retention, self.clock)
        self.keeper = CatalogueKeeper(
            catalog=self.catalog,
            hot=self.hot,
            ingest=self.config.ingest,
            vitals=self.vitals,
            clock=self.clock,
            judged_for_ns=int(self.config.watch.stale_after),
        )
        self._lines = LinesDecoder(self.admission)
        self._objects = ObjectsDecoder(self.admission)
        self._arrow = ArrowDecoder(self.admission)
        self._remote_write = RemoteWriteBodies(self.admission)
        self._prometheus_text = TextBodies(self.admission)
        self.pipeline = Pipeline(
            catalog=self.catalog,
            wal=self.wal,
            hot=self.hot,
            vitals=self.vitals,
            clock=self.clock,
            queue_bytes=int(self.config.ingest.queue),
            admit=self._admit,
            applied=self._applied,
            recovering=True,
        )
        self.sealer = Sealer(
            fs=fs,
            root=self.root,
            settings=storage,
            catalog=self.catalog,
            samples=self.samples,
            manifest=self.manifest,
            wal=self.wal,
            dirty=self.dirty,
            commit_lock=self.pipeline.commit_lock,
            vitals=self.vitals,
            clock=self.clock,
        )
        self.recovery = Replay(
            fs=fs,
            catalog=self.catalog,
            samples=self.samples,
            wal=self.wal,
            pipeline=self.pipeline,
            commit_lock=self.pipeline.commit_lock,
            checked=checked,
            after_sequence=floor,
            hot_limit_bytes=int(storage.hot_limit),
            mark=self.dirty.mark,
            tiers_include=self._upkeep.resume,
            seal=self.sealer.run,
            flush=self.flush_rollups,
            pending_rows=lambda: self.dirty.pending_rows,
            clock=self.clock,
        )
        self.compactor = Compactor(
            fs=fs,
            root=self.root,
            catalog=self.catalog,
            samples=self.samples,
            manifest=self.manifest,
            sealer=self.sealer,
            commit_lock=self.pipeline.commit_lock,
            keep_ns=self.admission.kept_ns,
            has_room=self.guard.has_room,
            vitals=self.vitals,
            clock=self.clock,
        )
        self.deleter = Deleter(
            catalog=self.catalog,
            samples=self.samples,
            manifest=self.manifest,
            sealer=self.sealer,
            dirty=self.dirty,
            delete_rollups=self._upkeep.delete,
            flush=self.flush_rollups,
            commit_lock=self.pipeline.commit_lock,
            vitals=self.vitals,
            clock=self.clock,
        )
        self.retainer = Retainer(
            retention=self.config.retention,
            admission=self.admission,
            samples=self.samples,
            manifest=self.manifest,
            exclusive=self.sealer.exclusive,
            flush=self._upkeep.flush_before_expiry,
            retain_rollups=self._upkeep.retain,
            forget_rollups=self._upkeep.forget,
            vitals=self.vitals,
            clock=self.clock,
        )

        self.lost_rollups = LostRanges(
            self.samples,
            self.dirty,
            table_ids=lambda: range(self.catalog.native.table_count),
            sequence=lambda: self.manifest.current.wal_floor,
            raw_since_ns=self.raw_since_ns,
            all_back=lambda: not self.recovery.active,
        )
        self.retainer.hide()

    def _open_queries(self) -> None:
        query = self.config.query
        self.newest = NewestReader(self.samples)
        self.exports = Exports(self.samples, self.root, FoundRows(self.catalog, self.samples, self.newest))
        self.sql_turns, self.query_turns = (
            Turns(
                path,
                query.concurrency,
                query.queue,
                query.timeout.seconds,
                caller_at_once=query.concurrency_per_token,
                caller_waiting=query.queue_per_token,
                monotonic=self.clock.monotonic,
                vitals=self.vitals,
            )
            for path in ("sql", "query")
        )
        self.ranges = RangeReader(self.catalog, self.samples, self.tiers, self.newest)
        self.wide = RowsReader(self.catalog, self.samples, self.newest)
        self._analyst = Analyst(self)
        self._reader = Reader(self)
        self.observer = Observer(self.catalog, self.samples)

    def _open_watching(self) -> None:
        config = self.config
        self.control = ControlDatabase(self._path("control.sqlite"))
        self.alerts = AlertStore.configured(self.control, config)
        self.tokens = TokenStore(self.control)
        self.silences = SilenceStore(self.control)
        self.rule_watch = RuleWatch(
            config.effective_rules,
            self.alerts,
            stale_after_ns=int(config.watch.stale_after),
        )
        self.watcher = Watcher(
            rules=self.rule_watch,
            inputs=RuleInputs(
                self.catalog,
                self.observer,
                Pasts(self.catalog, self.ranges, self.raw_since_ns),
                stale_after_ns=int(config.watch.stale_after),
                began_ns=self.clock.now_ns(),
            ),
            vitals=self.vitals,
            clock=self.clock,
        )
        self.reloader = Reloader(self._config_path, config, self._take_up, vitals=self.vitals, clock=self.clock)
        self.outbox = Outbox(self.control, {channel.name: channel for channel in config.channels})
        self._deliverer = Deliverer(self.outbox, vitals=self.vitals, clock=self.clock)
        self.anomalies = AnomalyStore(self.control)
        self.finder = AnomalyFinder(
            settings=config.detection,
            catalog=self.catalog,
            hot=self.hot,
            store=self.anomalies,
            vitals=self.vitals,
            clock=self.clock,
            fs=self.fs,
            path=self._path(STATE_FILE),
        )
        self.subject_finder = SubjectFinder(
            settings=config.detection,
            counters=config.rollups.counters,
            catalog=self.catalog,
            hot=self.hot,
            store=self.anomalies,
            vitals=self.vitals,
            clock=self.clock,
            stale_after_ns=int(config.watch.stale_after),
            fs=self.fs,
            path=self._path(SUBJECTS_FILE),
        )
        self.deploys = DeployStore(self.control)
        self.bottlenecks = FindingStore(self.control)
        self.bottleneck_finder = BottleneckFinder(
            settings=config.bottlenecks,
            rules=config.effective_rules,
            counters=config.rollups.counters,
            catalog=self.catalog,
            panels=PanelReader(self.catalog, self.ranges, self.raw_since_ns),
            alerts=self.alerts,
            anomalies=self.anomalies,
            changes=self.deploys.changes,
            store=self.bottlenecks,
            vitals=self.vitals,
            clock=self.clock,
        )
        self.decisions = ScaleStore(self.control)
        self.decider = Decider(
            targets=config.scale,
            catalog=self.catalog,
            observer=self.observer,
            store=self.decisions,
            vitals=self.vitals,
            clock=self.clock,
            keep=Duration(DECISION_TICKS * int(config.watch.tick)),
            complete=lambda: not self.recovery.active,
            read=partial(self.ranges.answer, raw_since_ns=self.raw_since_ns),
        )

    def _start_jobs(self) -> None:
        self._scheduler = Scheduler(self.vitals)
        switches = {"detect": self.config.detection.enabled, "bottlenecks": self.config.bottlenecks.enabled}
        switched_off = {name for name, on in switches.items() if not on}
        for job in (
            Job("rollup", FLUSH_SECONDS, partial(self.flush_rollups, due_only=True)),
            Job("arrange", ARRANGE_SECONDS, self.hot.arrange),
            Job("seal", SEAL_CHECK_SECONDS, self.sealer.run),
            Job("retain", RETAIN_SECONDS, self.retainer.run),
            Job("compact", COMPACT_SECONDS, self.compactor.run),
            Job("prune", PRUNE_SECONDS, self._prune),
            Job("catalogue", CATALOGUE_SECONDS, self.keeper.run),
            Job("tokens", TOKENS_SECONDS, self.tokens.refresh),
            Job("watch", self.config.watch.tick.seconds, self.watcher.tick),
            Job("reload", RELOAD_SECONDS, self.reloader.poll),
            Job("pasts", self.config.watch.tick.seconds, self.watcher.prepare),
            Job("scale", self.config.watch.tick.seconds, self.decider.tick),
            # The first run comes an interval after the start, in its own thread: it is what imports numba.
            Job("detect", self.config.detection.interval.seconds, self._detect),
            Job("bottlenecks", self.config.bottlenecks.interval.seconds, self.bottleneck_finder.tick),
        ):
            if self._mode == "snapshot" or job.name in switched_off:
                continue
            whole = job.name in WITHOUT_WHOLE_SAMPLES
            self._scheduler.start(job if whole else replace(job, run=partial(self._once_recovered, job.run)))
        if self._mode != "snapshot":
            self._deliverer.start(self._scheduler)
            self.hot.on_search = partial(self._scheduler.nudge, "arrange")
        self.recovery.start()

    def _detect(self) -> None:
        self.finder.tick()
        self.subject_finder.tick()

    def _once_recovered(self, run: Callable[[], object]) -> None:
        if not self.recovery.active:
            run()

    def close(self) -> None:
        """Finish what has been taken, bring the tiers up to date, seal what is in memory, and release the directory."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
        self.compactor.stop()
        # What has been replayed by then is sealed like other rows, so the next start has less to do.
        self.recovery.close()
        self._scheduler.close()
        self.pipeline.close()
        if self._mode != "snapshot":
            self._keep_all()
        self.link.close()
        self.exports.close()
        self.wal.close()
        self.control.close()
        self._lock.release()

    def _keep_all(self) -> None:
        try:
            self.finder.close()
            self.subject_finder.close()
        except (TidegaugeError, OSError) as error:
            LOG.warning("stopped without saving what detection has learned: %s", error)
        try:
            self.flush_rollups()
            self.sealer.seal()
            # The file that was being written goes too: after an orderly stop there is nothing left to replay.
            self.wal.roll()
            self.sealer.trim_log()
        except (TidegaugeError, OSError) as error:
            # Everything is in the log; the next start recovers it.
            LOG.warning("stopped without sealing: %s", error)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing

    def submit_lines(self, body: Bytes, unit_ns: int = 1) -> Future[WriteResult]:
        """Queue line protocol whose timestamps count ``unit_ns`` nanoseconds (0: guess by size)."""
        return self.pipeline.submit("line_protocol", len(body), lambda: self._lines.decode(body, unit_ns))

    def submit_objects(self, body: Bytes) -> Future[WriteResult]:
        """Queue a JSON batch."""
        return self.pipeline.submit("json", len(body), lambda: self._objects.decode(body))

    def submit_arrow(self, body: Bytes, table: str | None = None) -> Future[WriteResult]:
        """Queue an Arrow IPC stream; ``table`` overrides the name in its schema's metadata."""
        return self.pipeline.submit("arrow", len(body), lambda: self._arrow.decode(body, table))

    def submit_remote_write(self, body: bytes | memoryview, version: int = 1) -> Future[WriteResult]:
        """Queue a decompressed Prometheus remote write request of version 1.0 or 2.0."""
        return self.pipeline.submit("remote_write", len(body), lambda: self._remote_write.decode(body, version))

    def submit_prometheus_text(
        self, body: bytes | memoryview, *, open_metrics: bool = False, labels: Mapping[str, str] | None = None
    ) -> Future[WriteResult]:
        """Queue Prometheus text exposition; ``labels`` are given to every sample, in place of its own."""
        decode = partial(self._prometheus_text.decode, body, open_metrics=open_metrics, labels=labels or {})
        return self.pipeline.submit("prometheus_text", len(body), decode)

    def _admit(self) -> None:
        try:
            self.recovery.admit_write()
        except Recovering:
            self.vitals.overloaded.labels("recovering").inc()
            raise
        if self.hot.nbytes > HOT_CEILING * int(self.config.storage.hot_limit):
            self.vitals.overloaded.labels("hot_full").inc()
            raise QueueFull("cannot accept a write: rows arrive faster than they can be sealed")
        try:
            self.guard.admit()
        except DiskFull:
            self.vitals.overloaded.labels("disk_reserve").inc()
            raise

    def _applied(self, table_id: int, sequence: int, rows: Rows) -> None:
        marked = False
        while not marked:
            # A flush may begin meanwhile: it takes marks that stand for these rows, and need not see them.
            told_round = self.dirty.round
            touched = self.hot.touched_minutes(table_id, rows, told_round)
            marked = self.dirty.mark_new(told_round, table_id, sequence, *touched)

    def flush_rollups(self, *, due_only: bool = False) -> int:
        """Bring the tiers up to date with what is visible; return how many 1m rows were written.

        ``due_only``: as the background does it, see :meth:`engine.rollups.dirty.DirtyBuckets.flush_due`.
        """
        return self._upkeep.flush(due_only=due_only)

    # --- reading

    def query(self, query: RangeQuery, caller: Caller = EVERYONE) -> RangeAnswer:
        """Answer an aligned range query from raw samples or the best tier; raises Recovering until all are there."""
        return self._reader.query(query, caller)

    def prompt_query(self, query: RangeQuery, caller: Caller = EVERYONE) -> RangeAnswer | None:
        """Return the answer of :meth:`query` at once or not, see :meth:`engine.runtime.reader.Reader.prompt_query`."""
        return self._reader.prompt_query(query, caller)

    def stream_rows(self, query: RowsQuery, caller: Caller, stop: Stop) -> AbstractContextManager[RowsStream]:
        """Give rows of one table as they come, see :meth:`engine.runtime.reader.Reader.stream_rows`."""
        return self._reader.stream_rows(query, caller, stop)

    def prompt_rows(self, query: RowsQuery, caller: Caller, most_cells: int) -> SqlResult | None:
        """Return the answer of :meth:`rows` at once or not, see :meth:`engine.runtime.reader.Reader.prompt_rows`."""
        return self._reader.prompt_rows(query, caller, most_cells)

    def rows(self, query: RowsQuery, caller: Caller = EVERYONE) -> SqlResult:
        """Return the rows of one table that a question is about, see :meth:`stream_rows`, when its turn has come."""
        return self._reader.rows(query, caller)

    def forecast(self, query: ForecastQuery, caller: Caller = EVERYONE) -> ForecastAnswer:
        """Forecast the series of a metric from what is stored; raises BadRequest, QueryLimit, Recovering."""
        return run_forecast(query, self.clock.now_ns(), partial(self.query, caller=caller))

    def raw_since_ns(self, table_id: int) -> int:
        """Return the oldest time for which raw samples of a table are still kept."""
        return self.admission.oldest_ns(self.clock.now_ns(), table_id)

    def sql(
        self,
        statement: str,
        parameters: Sequence[Any] = (),
        caller: Caller = EVERYONE,
        stop: Stop | None = None,
    ) -> SqlResult:
        """Run one analyst's SELECT, which sees what exists for the caller, when its turn has come.

        ``stop`` ends it from another thread.  Raises BadQuery, QueryLimit, or QueueFull when too many are waiting;
        Recovering for a statement that reads samples or tiers until all of them are there; Cancelled.
        """
        stop = Stop() if stop is None else stop
        with self.sql_turns.take(caller, stop):
            try:
                with self.stream_sql(statement, parameters, caller, stop) as stream:
                    return SqlResult(pa.Table.from_batches(stream.batches(), stream.schema), stream.metadata)
            except KeyboardInterrupt:
                stop.ask()
                raise

    def stream_sql(self, statement: str, parameters: Sequence[Any], caller: Caller, stop: Stop) -> SqlStream:
        """Run one SELECT whose rows are read as they come, see :meth:`engine.runtime.analyst.Analyst.stream`."""
        return self._analyst.stream(statement, parameters, caller, stop)

    @contextmanager
    def timed(self, path: str) -> Iterator[None]:
        """Count and time one query on this path, by how it ends."""
        started = self.clock.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "answered"
        except (QueryLimit, QueueFull, Recovering):
            outcome = "limited"
            raise
        except Cancelled:
            outcome = "cancelled"
            raise
        except TidegaugeError:
            outcome = "refused"
            raise
        finally:
            self.vitals.queries.labels(path, outcome).inc()
            self.vitals.query_seconds.labels(path).observe(self.clock.monotonic() - started)

    def delete_series(
        self,
        matchers: Sequence[Matcher],
        *,
        table: str | None = None,
        start_ns: int = NEVER_NS,
        end_ns: int = FOREVER_NS,
        dry_run: bool = False,
        caller: Caller = EVERYONE,
    ) -> Deleted:
        """Delete stored rows by their labels, durably and everywhere; see :meth:`engine.maintenance.delete.Deleter`."""
        self.recovery.require_finished("delete series")
        return self.deleter.delete(
            matchers, table=table, start_ns=start_ns, end_ns=end_ns, dry_run=dry_run, caller=caller
        )

    # --- watching and deciding

    def scale(self, target: str) -> Decision:
        """Return the decision for a configured target; raises NotFound for another."""
        return self.decider.latest(target)

    def look_for_bottlenecks(self, question: Question | None = None) -> Report:
        """Look for bottlenecks now: as configured, keeping what is found, or as a question says, keeping nothing.

        Raises Recovering until all samples are there, BadRequest for a question that makes no sense.
        """
        self.recovery.require_finished("look for bottlenecks")
        return self.bottleneck_finder.tick() if question is None else self.bottleneck_finder.ask(question)

    def rules(self) -> list[dict[str, Any]]:
        """Return how each rule stands."""
        return rules_status(self)

    def evidence_of(self, alert: Alert, caller: Caller = EVERYONE) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return anomalies and bottlenecks, see :func:`engine.runtime.evidence.evidence`."""
        return evidence(self, alert, caller)

    def kept_notifications(self, **filters: Any) -> list[tuple[int, int, dict[str, Any]]]:
        """Return what dashboards keep, see :func:`engine.delivery.dashboard.kept_notifications`."""
        return kept_notifications(self.control, **filters)

    def _take_up(self, config: Config) -> tuple[Changes, Changes, dict[str, int]]:
        """Put rules, channels and who is told in force; see :class:`engine.maintenance.reload.Reloader`."""
        # What can fail comes first, and changes nothing.
        prepared = self._deliverer.prepare({channel.name: channel for channel in config.channels})
        with self.outbox.exchange:
            rules = self.watcher.replace(config)
            channels = self._deliverer.take_up(prepared)
        return rules, channels, self._deliverer.give_up()

    def _prune(self) -> None:
        before_ns = self.clock.now_ns() - FINDINGS_KEPT_NS
        self.vitals.retained.labels("alerts").inc(self.alerts.prune(before_ns))
        self.vitals.retained.labels("silences").inc(self.silences.prune(before_ns))
        self.vitals.retained.labels("anomalies").inc(self.anomalies.prune(before_ns))
        self.vitals.retained.labels("bottlenecks").inc(self.bottlenecks.prune(before_ns))
        self.vitals.retained.labels("decisions").inc(self.decisions.prune(before_ns))
        self.vitals.retained.labels("deploys").inc(self.deploys.prune(before_ns))

    # --- about itself

    def tier_stats(self) -> list[TierStats]:
        """Return rows and packed bytes of each tier, from narrow to wide; what waits to be flushed is not in them."""
        return self.link.rollup_stats()

    def storage(self) -> dict[str, Any]:
        """Return what takes how much of the disk."""
        return storage_status(self)

    def readiness(self) -> dict[str, Any]:
        """Return whether writes and queries are served, how far recovery is, and what it found."""
        return readiness_status(self)
