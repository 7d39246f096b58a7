"""The collector's figures for Prometheus, over HTTP: the same that ``hpctrack collector --status`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.stream.collector.figures import FigureKind, Meaning, Program, told

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
    from hpctrack.stream.collector.figures import Figures


class _Exporter(registry.Collector):
    """Turns the figures into metrics whenever they are asked for."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        for prefix, (name, meaning, value) in figures.walk():
            if meaning.kind is not FigureKind.PART:
                yield _metric(meaning.name or prefix + name, meaning, value or 0)
        yield from _joined(figures)
        yield from _states(figures)
        yield from _programs(figures.slurm_commands)


def _metric(name: str, meaning: Meaning, value: float) -> Metric:
    family = CounterMetricFamily if meaning.kind is FigureKind.COUNTER else GaugeMetricFamily
    return family(f"hpctrack_{name}", meaning.help, value=value)


def _joined(figures: Figures) -> Iterator[Metric]:
    """Yield what is made of several figures."""
    yield _labelled(
        "refused_datagrams", "Datagrams that changed nothing, by reason", "reason", figures.refused()
    )
    yield _labelled(
        "arrived_datagrams",
        "Datagrams with data by what became of them: joined a batch; held for what is missing before them"
        " (out of order); committed or ignored (duplicates); dropped (asked for again)",
        "verdict",
        figures.stored.verdicts(),
    )
    yield _labelled("rejected_rows", "Rows set aside, by SQLSTATE", "sqlstate", figures.rejected)
    yield SummaryMetricFamily(
        "hpctrack_commit_seconds",
        "Time from a complete batch to its commit",
        count_value=figures.stored.batches or 0,
        sum_value=figures.commit_total_s or 0.0,
    )


def _states(figures: Figures) -> Iterator[Metric]:
    """Yield what is so, or is not."""
    yield _state("postgresql_up", "Whether PostgreSQL answers", figures.trouble is None)
    yield _state(
        "reconciling", "Whether this collector is the one that asks Slurm", bool(figures.reconciling)
    )
    if figures.reconciling:
        yield _state(
            "slurm_up", "Whether the last question to Slurm was answered", figures.slurm_trouble is None
        )


def _state(name: str, help_text: str, value: bool) -> Metric:
    return GaugeMetricFamily(f"hpctrack_{name}", help_text, value=float(value))


def _programs(programs: Mapping[str, Program]) -> Iterator[Metric]:
    """Yield what each of Slurm's programs was asked."""
    for name, meaning, _ in told(Program()):
        if meaning.kind is FigureKind.COUNTER:
            values = {program: getattr(asked, name) or 0 for program, asked in programs.items()}
            yield _labelled(f"slurm_{name}", meaning.help, "program", values)


def _labelled(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"hpctrack_{name}", help_text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def serve(settings: Settings, figures: Callable[[], Figures]) -> Callable[[], None]:
    """Serve ``figures`` at the configured address, in a thread of its own; returns what ends that.

    Raises `errors.CollectorUnavailable` where the address can't be had.
    """
    own = registry.CollectorRegistry()
    own.register(_Exporter(figures))
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
