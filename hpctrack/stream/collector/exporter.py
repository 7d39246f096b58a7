"""The collector's figures for Prometheus, over HTTP: the same that ``hpctrack collector --status`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpctrack import errors

try:
    import prometheus_client
    from prometheus_client import registry
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
except ImportError as error:
    raise errors.MissingExtra("metrics for Prometheus need pip install 'hpctrack[prometheus]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from hpctrack.settings import Settings

#: What the receiving thread counts beside its reasons to refuse a datagram.
_NO_REASONS = ("datagrams", "bytes", "accepted", "pings", "overflow")
_VERDICTS = ("committed", "joined", "held", "dropped", "ignored")
#: Counters by the names in the collector's stats.
_RECEIVED = {
    "datagrams": "Datagrams that arrived",
    "bytes": "Bytes of datagrams that arrived",
    "accepted": "Datagrams with data under the right key",
    "pings": "Pings under the right key, which are answered at once",
    "overflow": "Datagrams left out because the queue was full; they come again",
}
_STORED = {
    "rows": "Rows of metrics that were committed",
    "messages": "Messages that were committed",
    "batches": "Transactions of data",
    "duplicates": "Ranges of journals that were in PostgreSQL already",
    "replaced": "Rows of an earlier attempt that a later one replaced",
    "torn": "Damaged lines of journals",
    "rejected": "Rows that PostgreSQL refused for their content",
    "malformed": "Messages that could not be understood",
    "homeless": "Ranges of journals of runs that were deleted",
    "put_off": "Ranges of journals of runs that another session held; they come again",
}


class _Exporter(registry.Collector):
    """Turns the stats into metrics whenever they are asked for."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        received, stored = stats["received"], stats["stored"]
        for name, help_text in _RECEIVED.items():
            yield _counter(f"received_{name}", help_text, received.get(name, 0))
        refused = {reason: count for reason, count in received.items() if reason not in _NO_REASONS}
        refused["unknown run"] = refused.get("unknown run", 0) + stats["unknown_runs"]
        yield _labelled("refused_datagrams", "Datagrams that changed nothing, by reason", "reason", refused)
        verdicts = {name: stored.get(name, 0) for name in _VERDICTS}
        yield _labelled(
            "arrived_datagrams",
            "Datagrams with data by what became of them: joined a batch; held for what is missing before them"
            " (out of order); committed or ignored (duplicates); dropped (asked for again)",
            "verdict",
            verdicts,
        )
        for name, help_text in _STORED.items():
            yield _counter(f"stored_{name}", help_text, stored.get(name, 0))
        yield _labelled("rejected_rows", "Rows set aside, by SQLSTATE", "sqlstate", stats["rejected"])
        yield SummaryMetricFamily(
            "hpctrack_commit_seconds",
            "Time from a complete batch to its commit",
            count_value=stored.get("batches", 0),
            sum_value=stats["commit_total_s"],
        )
        yield from _gauges(stats)
        yield from _slurm(stats)


def _gauges(stats: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("queued_datagrams", "Datagrams that wait to be stored", stats["waiting"])
    yield _gauge("lag_seconds", "For how long the oldest of them has waited", stats["lag_s"])
    yield _gauge("held_bytes", "Bytes held because something before them is missing", stats["held_bytes"])
    yield _gauge("open_streams", "Journals that are remembered", stats["streams"])
    yield _counter("kernel_drops", "Datagrams that the kernel dropped (SO_RXQ_OVFL)", stats["kernel_drops"])
    yield _gauge("uptime_seconds", "Since the collector started", stats["uptime_s"])
    yield _gauge("postgresql_up", "Whether PostgreSQL answers", float(stats["trouble"] is None))


def _slurm(stats: Mapping[str, Any]) -> Iterator[Metric]:
    asks = bool(stats["reconciling"])
    yield _gauge("reconciling", "Whether this collector is the one that asks Slurm", float(asks))
    if asks:
        up = float(stats["slurm_trouble"] is None)
        yield _gauge("slurm_up", "Whether the last question to Slurm was answered", up)
    yield _counter("slurm_passes", "Comparisons with Slurm", stats.get("slurm_passes", 0))
    programs = stats.get("slurm_commands", {})
    for name, help_text in (
        ("commands", "Commands sent to Slurm"),
        ("failures", "Commands that failed"),
        ("seconds", "Time that Slurm took to answer"),
    ):
        values = {program: counts.get(name, 0) for program, counts in programs.items()}
        yield _labelled(f"slurm_{name}", help_text, "program", values)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"hpctrack_{name}", help_text, value=value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"hpctrack_{name}", help_text, value=value)


def _labelled(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"hpctrack_{name}", help_text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def serve(settings: Settings, stats: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """Serve ``stats`` at the configured address, in a thread of its own; returns what ends that.

    Raises `errors.CollectorUnavailable` where the address can't be had.
    """
    own = registry.CollectorRegistry()
    own.register(_Exporter(stats))
    host, port = settings.metrics_bind, settings.metrics_port
    try:
        server, thread = prometheus_client.start_http_server(port, host, registry=own)
    except OSError as error:
        raise errors.CollectorUnavailable(
            f"metrics can't be served on {host} port {port}: {error.strerror or error}; see --metrics-port"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
