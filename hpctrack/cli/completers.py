"""What the shell completes: runs, their metrics and tags, experiments, states.

Quick, and silent when PostgreSQL is away; nothing is started or registered for a press of the tab key.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from hpctrack.run.states import RunStatus
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    from hpctrack.store.read import completions

#: What bash, which inserts a word as it is, would not take as part of a word. It needs two backslashes, of
#: which click's script takes one away.
_SPECIAL = re.compile(r"([^\w@%+=:,./-])")
#: What click's scripts, or the shells, would insert as something else: such words are not offered.
_SPOILT = {"bash": re.compile(r"\\|^$"), "zsh": re.compile(r"\\|^$"), "fish": re.compile(r",|^~|^$")}


def runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a run: by its own id (r7), its job id (14, 14_3) or its job's name."""
    return _ask(ctx, lambda source: source.runs(incomplete))


def experiments(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an experiment."""
    return _ask(ctx, lambda source: source.experiments(incomplete))


def audiences(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete whom to share with: a login, or one of the caller's accounts."""
    return _ask(ctx, lambda source: source.audiences(incomplete))


def metrics(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a metric of the run, or of the series that was named."""
    series = ctx.params.get("series")
    return _ask(ctx, lambda source: source.metrics([ctx.params["ref"].text], incomplete, series))


def runs_and_metrics(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a metric of the runs that stand there already, or one more run."""
    series = ctx.params.get("series")
    return _ask(ctx, lambda source: source.metrics(_typed(ctx), incomplete, series) + source.runs(incomplete))


def series(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a series of the runs that stand there already."""
    named = [ref.text for ref in (ctx.params.get("ref"), *(ctx.params.get("refs") or ())) if ref is not None]
    return _ask(ctx, lambda source: source.series([*named, *_typed(ctx)], incomplete))


def runs_and_tags(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a tag that the runs have which stand there already, or one more run."""
    return _ask(ctx, lambda source: source.tags(_typed(ctx), incomplete) + source.runs(incomplete))


def _typed(ctx: click.Context) -> tuple[str, ...]:
    return ctx.params.get("words") or ()  # None before the first


def fields(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a field to sort by, behind a minus, too."""
    from hpctrack.run import fields as of_runs

    sign = "-" if incomplete.startswith("-") else ""
    word = incomplete.removeprefix("-")
    return _scoped(ctx, sign, word) if of_runs.scoped(f"{word}x") else _of(of_runs.ASKED, sign, word)


def columns(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last of the columns that are joined by commas."""
    from hpctrack.run import fields as of_runs
    from hpctrack.view import columns as of_lists

    done, comma, word = incomplete.rpartition(",")
    if of_runs.scoped(f"{word}x"):
        return _scoped(ctx, done + comma, word)
    return _of(of_lists.names(), done + comma, word)


def _scoped(ctx: click.Context, before: str, word: str) -> list[CompletionItem]:
    """Complete a name in a scope, args.lr or min.val_loss, behind what stands before it."""
    return _ask(
        ctx, lambda source: [known._replace(text=before + known.text) for known in source.scoped(word)]
    )


def _of(names: Iterable[str], before: str, word: str) -> list[CompletionItem]:
    """Return the names that continue a word, each with what stands before it."""
    return [CompletionItem(before + name) for name in names if name.startswith(word)]


def states(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the last of the states that are joined by commas."""
    done, comma, word = incomplete.rpartition(",")
    return _of(sorted(status.value for status in RunStatus), done + comma, word.upper())


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave it to the shell, which knows files."""
    return [CompletionItem(incomplete, type="file")]


def _ask(
    ctx: click.Context, question: Callable[[completions.Source], list[completions.Word]]
) -> list[CompletionItem]:
    try:
        words = _answer(ctx.params.get("config_path"), question)
    except Exception:  # noqa: BLE001 (a press of the tab key has no place for a message)
        return []
    shell = os.environ.get("_HPCTRACK_COMPLETE", "").partition("_")[0]
    spoilt = _SPOILT.get(shell, _SPOILT["bash"])
    return [
        CompletionItem(_inserted(word.text, shell), help=visible.shown(word.help))
        for word in words
        if visible.shown(word.text) == word.text and not spoilt.search(word.text)
    ]


def _answer(
    config_path: str | None, question: Callable[[completions.Source], list[completions.Word]]
) -> list[completions.Word]:
    from hpctrack import settings
    from hpctrack.store.read import completions

    with completions.source(settings.load(config_path=config_path)) as source:
        return question(source)


def _inserted(text: str, shell: str) -> str:
    """Return what a shell is to insert, so that it stands for this text."""
    return _SPECIAL.sub(r"\\\\\1", text) if shell == "bash" else text
