"""The git repository that a submission comes from: its state, asked for without being waited for long.

A repository is written by whoever made it, and its configuration may name programs: filters, a monitor of the
file system, hooks, helpers of remotes. None of them may run because somebody submits a job there.

* Where the repository is, its commit and its configuration are asked of commands that only read.
* Whether files differ from the commit is asked in the name of a git folder of our own, with the index and the
  objects of the repository, and a configuration that names no program. Files that only a filter could compare
  are neither clean nor dirty then: it is not known.
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

SECONDS = 1.0
#: For a git that was killed to be gone.
_GRACE = 0.2
#: Submodules in submodules.
_MAX_DEPTH = 5

_PLACE = "rev-parse --show-toplevel --git-dir HEAD --symbolic-full-name HEAD"
_CONFIG = "config --null --list"
_STATUS = "status --porcelain -z --untracked-files=no --ignore-submodules=dirty"
_FILTERS = "check-attr -z --stdin filter"
_INDEX = "ls-files --stage -z"

#: What the comparison of files depends on besides, and what names no program (git-config(1)).
_PASSED_ON = frozenset(
    "core.repositoryformatversion core.filemode core.symlinks core.ignorecase core.precomposeunicode "
    "core.trustctime core.checkstat core.autocrlf core.eol extensions.objectformat".split()
)
_WORD = re.compile(r"[A-Za-z0-9]*")


class State(TypedDict):
    """What ``submissions.git`` holds. ``remote`` may hold a password: it is to be redacted."""

    commit: str | None
    branch: str | None
    #: Whether files differ from the commit; None where that is not known.
    dirty: bool | None
    remote: str | None


class _Repository(NamedTuple):
    """A repository with its files."""

    top: Path
    git_dir: Path
    commit: str
    branch: str | None
    config: dict[str, str]


class Inquiry:
    """A question to git that is under way; asked early, answered while other things are done."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        self._deadline = time.monotonic() + SECONDS
        self._git = Git(environ, self._deadline)
        self._state: State | None = None
        self._thread = threading.Thread(target=self._inquire, args=(Path(folder),), daemon=True)
        self._thread.start()

    def answer(self) -> State | None:
        """Return the state as far as it is known in time; None without git, a repository or a commit."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + _GRACE)
        return self._state

    def _inquire(self, folder: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            found = _find(self._git, folder)
            if found is not None:
                known = State(
                    commit=found.commit, branch=found.branch, dirty=None, remote=remote(found.config)
                )
                self._state = known  # should the rest take too long
                self._state = {**known, "dirty": _is_dirty(self._git, found)}


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
    with contextlib.suppress(FileNotFoundError):  # there is one in further work trees
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
    """Whether files whose bytes differ really do; None if a filter, which is not run, may undo that."""
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
    """Return True if an answer is True; else None if one is not known."""
    if True in answers:
        return True
    return None if None in answers else False


def _submodule_is_dirty(git: Git, path: Path, depth: int) -> bool | None:
    found = _find(git, path)
    if found is None or found.top.resolve() != path.resolve():
        return None
    return _is_dirty(git, found, depth + 1)


# ---- what git says, read ---------------------------------------------------------------------------------


def parse_config(listed: str) -> dict[str, str]:
    """Read ``git config --null --list``: the last value of a name counts; without one it is true."""
    found = {}
    for entry in listed.split("\0"):
        name, equals, value = entry.partition("\n")
        found[name] = value if equals else "true"
    return found


def remote(config: Mapping[str, str]) -> str | None:
    """Return the address of the remote repository: of ``origin``, or else of any."""
    urls = (value for name, value in config.items() if re.fullmatch(r"remote\..*\.url", name, re.DOTALL))
    return config.get("remote.origin.url") or next(urls, None)


def filters(config: Mapping[str, str]) -> set[str]:
    """Return the names of the filters that change what git compares."""
    found = (re.fullmatch(r"filter\.(.*)\.(?:clean|process)", name, re.DOTALL) for name in config)
    return {match[1] for match in found if match is not None}


def stand_in_config(config: Mapping[str, str], attributes: str) -> str:
    """Return a configuration that says what the comparison of files depends on, and names no program."""
    quoted = attributes.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = [f'[core]\n\tbare = false\n\tattributesFile = "{quoted}"\n']
    lines += [f"[{section}]\n\trenames = false\n" for section in ("diff", "status")]
    for name in sorted(_PASSED_ON & config.keys()):
        section, _, key = name.partition(".")
        if _WORD.fullmatch(config[name]):
            lines.append(f"[{section}]\n\t{key} = {config[name]}\n")
    return "".join(lines)


def parse_status(told: str) -> tuple[bool, list[str]]:
    """Read ``git status --porcelain -z``: whether files are changed for sure, and which others may be."""
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
