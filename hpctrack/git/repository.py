"""The git repository that a job is submitted from: its commit, branch and remote, and whether it is dirty.

The submission waits a bounded time for the answer. Somebody else may have written the repository, and its
configuration may name programs: filters, a file system monitor, hooks, helpers of remotes. None of them runs
because somebody submits a job there.

* Commands that only read tell where the repository is, its commit and its configuration.
* To tell whether files differ from the commit, git gets a git folder of our own: with the repository's index
  and objects, and with a configuration that names no program. If only a filter could compare a file, it is
  not known whether the repository is dirty.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from hpctrack import files
from hpctrack.git.program import Git

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

#: Time for all questions about one repository.
SECONDS = 1.0
#: Seconds that a killed git gets to end.
_GRACE = 0.2
#: Levels of submodules in submodules.
_MAX_DEPTH = 5

_PLACE = "rev-parse --show-toplevel --git-dir HEAD --symbolic-full-name HEAD"
_CONFIG = "config --null --list"
_STATUS = "status --porcelain -z --untracked-files=no --ignore-submodules=dirty"
_FILTERS = "check-attr -z --stdin filter"
_INDEX = "ls-files --stage -z"

#: Settings that the comparison of files depends on, and that name no program (git-config(1)).
_PASSED_ON = frozenset(
    "core.repositoryformatversion core.filemode core.symlinks core.ignorecase core.precomposeunicode "
    "core.trustctime core.checkstat core.autocrlf core.eol extensions.objectformat".split()
)
_WORD = re.compile(r"[A-Za-z0-9]*")


class State(TypedDict):
    """The contents of ``submissions.git``. ``remote`` may hold a password: callers redact it."""

    commit: str | None
    branch: str | None
    #: Whether files differ from the commit; None: not known.
    dirty: bool | None
    remote: str | None


class _Repository(NamedTuple):
    """A repository that has a working tree."""

    top: Path
    git_dir: Path
    commit: str
    branch: str | None
    config: dict[str, str]


class Inquiry:
    """A question to git that a thread asks, while the caller does other things."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self._deadline = time.monotonic() + SECONDS
        self._git = Git(environ, self._deadline)
        self._state: State | None = None
        self._thread = threading.Thread(target=self._inquire, args=(Path(folder),), daemon=True)
        self._thread.start()

    def answer(self) -> State | None:
        """Return what is known of the state in time; None if there is no git, no repository or no commit."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + _GRACE)
        return self._state

    def _inquire(self, folder: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            repository = _find(self._git, folder)
            if repository is not None:
                known = State(
                    commit=repository.commit,
                    branch=repository.branch,
                    dirty=None,
                    remote=remote(repository.config),
                )
                self._state = known  # should the rest take too long
                self._state = {**known, "dirty": _is_dirty(self._git, repository)}


def _find(git: Git, folder: Path) -> _Repository | None:
    lines = (git.ask(_PLACE, folder) or "").split("\n")
    if len(lines) != 5:  # a path with a line break is nobody's
        return None
    listed = git.ask(_CONFIG, folder)
    if listed is None:
        return None
    top, git_dir, commit, reference, _ = lines
    branch = reference.removeprefix("refs/heads/") if reference.startswith("refs/heads/") else None
    return _Repository(Path(top), folder.absolute() / git_dir, commit, branch, parse_config(listed))


# ---- whether files differ --------------------------------------------------------------------------------


def _is_dirty(git: Git, repository: _Repository, depth: int = 0) -> bool | None:
    with tempfile.TemporaryDirectory(prefix="hpctrack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o700)  # the umask may have shut it
        stand_in = _stand_in(git, repository, Path(folder))
        told = git.ask(_STATUS, repository.top, stand_in)
        if told is None:
            return None
        changed, unsure = parse_status(told)
        if not changed and unsure:
            return _differ(git, repository, unsure, stand_in)
        return changed or _submodules_are_dirty(git, repository, stand_in, depth)


def _stand_in(git: Git, repository: _Repository, folder: Path) -> dict[str, str]:
    """Make a git folder that stands in for the repository's own; return the variables that name it."""
    common = repository.git_dir
    with contextlib.suppress(FileNotFoundError):  # only linked work trees have this file
        told = files.read(str(common / "commondir"), 1 << 16, links=True)
        common = common / os.fsdecode(told).rstrip("\n")
    for name in ("refs", "info"):
        (folder / name).mkdir()
    (folder / "info" / "attributes").symlink_to(common / "info" / "attributes")
    for shared in repository.git_dir.glob("sharedindex.*"):
        (folder / shared.name).symlink_to(shared)
    (folder / "HEAD").write_text(f"{repository.commit}\n", encoding="ascii")
    config = stand_in_config(repository.config, _attributes(git.environ, repository.config))
    (folder / "config").write_bytes(os.fsencode(config))
    return {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_DIR": str(folder),
        "GIT_WORK_TREE": str(repository.top),
        "GIT_INDEX_FILE": str(repository.git_dir / "index"),
        "GIT_OBJECT_DIRECTORY": str(common / "objects"),
    }


def _attributes(environ: Mapping[str, str], config: Mapping[str, str]) -> str:
    """Return the user's own file of attributes (gitattributes(5))."""
    home = environ.get("HOME", "")
    own = os.fspath(Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "git", "attributes"))
    return re.sub(r"^~(?=/)", lambda _: home, config.get("core.attributesfile", own))


def _differ(
    git: Git, repository: _Repository, paths: Sequence[str], stand_in: Mapping[str, str]
) -> bool | None:
    """Whether files with other bytes have changed; None if a filter, which we don't run, could undo it."""
    drivers = filters(repository.config)
    if not drivers:
        return True
    given = os.fsencode("".join(f"{path}\0" for path in paths))
    fields = (git.ask(_FILTERS, repository.top, stand_in, given) or "").split("\0")
    if len(fields) != 3 * len(paths) + 1:
        return None
    return True if any(driver not in drivers for driver in fields[2::3]) else None


def _submodules_are_dirty(
    git: Git, repository: _Repository, stand_in: Mapping[str, str], depth: int
) -> bool | None:
    if not (repository.top / ".gitmodules").exists():
        return False
    told = git.ask(_INDEX, repository.top, stand_in)
    if told is None or depth >= _MAX_DEPTH:
        return None
    return _any({_submodule_is_dirty(git, path, depth) for path in _populated(repository.top, told)})


def _any(answers: Collection[bool | None]) -> bool | None:
    """Return True if any answer is True, else None if any is None, else False."""
    if True in answers:
        return True
    return None if None in answers else False


def _submodule_is_dirty(git: Git, path: Path, depth: int) -> bool | None:
    submodule = _find(git, path)
    if submodule is None or submodule.top.resolve() != path.resolve():
        return None
    return _is_dirty(git, submodule, depth + 1)


# ---- what git says, read ---------------------------------------------------------------------------------


def parse_config(listed: str) -> dict[str, str]:
    """Read ``git config --null --list``. The last value of a name counts; without a value it is "true"."""
    config = {}
    for entry in listed.split("\0"):
        name, equals, value = entry.partition("\n")
        config[name] = value if equals else "true"
    return config


def remote(config: Mapping[str, str]) -> str | None:
    """Return the URL of the remote ``origin``, or else of the first remote; None without any."""
    urls = (value for name, value in config.items() if re.fullmatch(r"remote\..*\.url", name, re.DOTALL))
    return config.get("remote.origin.url") or next(urls, None)


def filters(config: Mapping[str, str]) -> set[str]:
    """Return the names of the filters that git would run to compare a file."""
    matches = (re.fullmatch(r"filter\.(.*)\.(?:clean|process)", name, re.DOTALL) for name in config)
    return {match[1] for match in matches if match is not None}


def stand_in_config(config: Mapping[str, str], attributes: str) -> str:
    """Return a configuration for comparing files: the settings that matter to it, and no program."""
    quoted = attributes.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = [f'[core]\n\tbare = false\n\tattributesFile = "{quoted}"\n']
    lines += [f"[{section}]\n\trenames = false\n" for section in ("diff", "status")]
    for name in sorted(_PASSED_ON & config.keys()):
        section, _, key = name.partition(".")
        if _WORD.fullmatch(config[name]):
            lines.append(f"[{section}]\n\t{key} = {config[name]}\n")
    return "".join(lines)


def parse_status(told: str) -> tuple[bool, list[str]]:
    """Read ``git status --porcelain -z``: whether a file has changed for sure, and which others may have."""
    unsure = []
    for entry in told.split("\0"):
        staged, unstaged, path = entry[:1], entry[1:2], entry[3:]
        if staged.strip() or unstaged.strip(" M"):
            return True, []
        if unstaged == "M":
            unsure.append(path)
    return False, unsure


def _populated(top: Path, listed: str) -> Iterator[Path]:
    """Yield the folders of submodules (``git ls-files --stage -z``) that hold a repository."""
    for entry in listed.split("\0"):
        path = top / entry.partition("\t")[2]
        if entry.startswith("160000 ") and (path / ".git").exists():
            yield path
