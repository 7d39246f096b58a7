"""What a submission asks of git: nothing that a repository names runs, and the answer is true or unknown."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hpctrack.git import repository as git

ME = ["-c", "user.name=n", "-c", "user.email=e@h", "-c", "commit.gpgSign=false"]
STRANGER = 65534


@pytest.fixture(autouse=True)
def _own_git(tmp_path, monkeypatch):
    """Have no configuration of git's but the test's own."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(git, "SECONDS", 20.0)  # a busy machine is no fault of git's


class Repository:
    """A repository with one commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "trunk", str(folder), cwd=folder.parent)
        self.write("train.py", "print()\n")
        self.write("data.bin", "data\n")
        self.commit()

    def git(self, *argv, cwd=None, check=True) -> str:
        done = subprocess.run(
            ["git", *ME, *argv],
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            check=check,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        return done.stdout

    def write(self, name, text) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "-qm", "x", "--no-verify")

    def config(self, *words) -> None:
        self.git("config", *words)

    def touch(self) -> None:
        """Change what the index knows of the files, but not what is in them."""
        for path in self.folder.rglob("*"):
            if path.is_file() and ".git" not in path.parts:
                os.utime(path, ns=(1, time.time_ns()))

    def state(self, folder=None, **environ):
        return git.Inquiry(str(folder or self.folder), {**os.environ, **environ}).answer()


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


# ---- true answers ----------------------------------------------------------------------------------------


def test_a_clean_repository(repository):
    repository.config("remote.other.url", "ssh://other/r")
    repository.config("remote.origin.url", "https://host/r.git")
    commit = repository.git("rev-parse", "HEAD").strip()
    expected = git.State(commit=commit, branch="trunk", dirty=False, remote="https://host/r.git")
    assert repository.state() == expected
    repository.touch()
    assert repository.state() == expected
    repository.write("sub/folder/new", "untracked files are not looked at\n")
    assert repository.state(repository.folder / "sub" / "folder") == expected
    repository.git("checkout", "-q", "--detach")
    assert repository.state() == {**expected, "branch": None}


CHANGES = {
    "changed": lambda it: it.write("train.py", "print(1)\n"),
    "changed, of the same size": lambda it: it.write("train.py", "PRINT()\n"),
    "removed": lambda it: (it.folder / "train.py").unlink(),
    "executable": lambda it: (it.folder / "train.py").chmod(0o755),
    "a link": lambda it: ((it.folder / "train.py").unlink(), (it.folder / "train.py").symlink_to("x")),
    "staged": lambda it: (it.write("train.py", "print(1)\n"), it.git("add", ".")),
    "staged, then put back": lambda it: (
        it.write("train.py", "print(1)\n"), it.git("add", "."), it.write("train.py", "print()\n")
    ),
    "added": lambda it: (it.write("more.py", ""), it.git("add", ".")),
    "renamed": lambda it: it.git("mv", "train.py", "learn.py"),
    "unmerged": lambda it: (
        it.git("checkout", "-qb", "other"), it.write("train.py", "1\n"), it.commit(),
        it.git("checkout", "-q", "trunk"), it.write("train.py", "2\n"), it.commit(),
        it.git("merge", "other", check=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(repository, change):
    CHANGES[change](repository)
    assert repository.state()["dirty"] is True
    assert repository.git("status", "--porcelain", "--untracked-files=no")


def test_names_of_every_kind_are_seen(repository):
    for name in ("with blank", "with\nline", 'with "quote', "umlaut-ä", "-dash", os.fsdecode(b"bytes-\xff")):
        repository.write(name, "1\n")
    repository.commit()
    assert repository.state()["dirty"] is False
    repository.write("with\nline", "2\n")
    assert repository.state()["dirty"] is True


LAYOUTS = {
    "a further work tree": lambda it: it.git("worktree", "add", "-q", "-b", "wide", "../wide"),
    "a shallow clone": lambda it: it.git("clone", "-q", "--depth", "1", f"file://{it.folder}", "../wide"),
    "a clone that borrows objects": lambda it: it.git("clone", "-q", "--shared", ".", "../wide"),
    "packed": lambda it: (it.git("clone", "-q", ".", "../wide"), it.git("gc", "-q"), it.git("pack-refs")),
    "SHA-256": lambda it: it.git("init", "-q", "--object-format=sha256", "-b", "trunk", "../wide"),
    "a split index": lambda it: (
        it.git("clone", "-q", ".", "../wide"), it.git("-C", "../wide", "update-index", "--split-index")
    ),
    "a sparse index": lambda it: (
        it.write("far/away/file", "1\n"), it.commit(), it.git("clone", "-q", ".", "../wide"),
        it.git("-C", "../wide", "sparse-checkout", "set", "--cone", "--sparse-index", "none"),
    ),
    "line ends": lambda it: (
        it.git("clone", "-q", "-c", "core.autocrlf=true", ".", "../wide"),
    ),
    "no rights of files": lambda it: (
        it.git("clone", "-q", ".", "../wide"), it.git("-C", "../wide", "config", "core.fileMode", "false"),
        (it.folder.parent / "wide" / "train.py").chmod(0o755),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_every_kind(repository, tmp_path, layout):
    LAYOUTS[layout](repository)
    wide = Repository.__new__(Repository)
    wide.folder = tmp_path / "wide"
    if not (wide.folder / "train.py").exists():
        wide.write("train.py", "print()\n")
        wide.commit()
    wide.touch()
    state = wide.state()
    assert state["dirty"] is False
    assert state["commit"] == wide.git("rev-parse", "HEAD").strip()
    assert state["branch"] == wide.git("branch", "--show-current").strip()
    wide.write("train.py", "print(1)\n")
    assert wide.state()["dirty"] is True


def test_submodules_are_looked_into(repository, tmp_path):
    inner = Repository(tmp_path / "inner")
    for _ in range(2):  # one in another
        outer = Repository(tmp_path / f"outer-{inner.folder.name}")
        outer.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner.folder), "part")
        outer.commit()
        inner = outer
    outer.git("-c", "protocol.file.allow=always", "submodule", "update", "-q", "--init", "--recursive")
    outer.touch()
    assert outer.state()["dirty"] is False
    deep = outer.write("part/part/train.py", "print(1)\n")
    assert outer.state()["dirty"] is True
    deep.write_text("print()\n")
    assert outer.state()["dirty"] is False
    part = Repository.__new__(Repository)
    part.folder = outer.folder / "part"
    part.write("train.py", "print(1)\n")
    part.commit()
    assert outer.state()["dirty"] is True  # another commit of it


def test_what_only_a_filter_could_compare_is_not_known(repository):
    """As with large files that are kept elsewhere: what is committed is made of the file by a program."""
    repository.config("filter.large.clean", "sed s/^/pointer:/")
    repository.config("filter.large.smudge", "sed s/^pointer://")
    repository.write(".gitattributes", "*.bin filter=large\n")
    repository.git("rm", "-q", "--cached", "data.bin")
    repository.commit()
    time.sleep(0.01)
    repository.git("status")  # it notes down the time of the file
    assert repository.state()["dirty"] in (False, None)
    repository.touch()
    assert repository.state()["dirty"] is None
    repository.write("train.py", "print(1)\n")
    assert repository.state()["dirty"] is True
    repository.git("checkout", "-q", "train.py")
    repository.config("--unset", "filter.large.clean")
    assert repository.state()["dirty"] is True  # as git itself says now


def test_neither_git_nor_a_repository_nor_a_commit(repository, tmp_path):
    assert repository.state(tmp_path) is None
    assert repository.state(tmp_path / "missing") is None
    assert repository.state(PATH="/nonexistent") is None
    assert repository.state(repository.folder / ".git") is None
    repository.git("init", "-q", str(tmp_path / "empty"))
    assert repository.state(tmp_path / "empty") is None


def test_what_takes_too_long_is_not_waited_for(repository, monkeypatch, tmp_path):
    (repository.folder / ".gitattributes").unlink(missing_ok=True)
    monkeypatch.setattr(git, "SECONDS", 2.0)
    os.mkfifo(repository.folder / ".git" / "info" / "fifo")
    repository.config("core.attributesFile", str(repository.folder / ".git" / "info" / "fifo"))
    repository.touch()
    state = repository.state()
    assert state["branch"] == "trunk" and state["dirty"] is None


# ---- nothing of the repository's runs --------------------------------------------------------------------


class Hostile(Repository):
    """A repository, an unpacked archive for example, that names programs wherever git takes any."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.marks = folder.parent / "marks"
        self.marks.mkdir()

    def program(self, name: str) -> str:
        """Return a program that leaves a mark, and copies its input as a filter does."""
        path = self.folder.parent / f"run-{name}"
        path.write_text(f"#!/bin/sh\n: > '{self.marks}/{name}'\nexec cat\n")
        path.chmod(0o755)
        return str(path)

    def ran(self) -> list[str]:
        return sorted(os.listdir(self.marks))


def filters(it: Hostile) -> None:
    for attribute in ("clean", "smudge", "process"):
        it.config(f"filter.evil.{attribute}", it.program(f"filter-{attribute}"))
        it.config("filter.evil.required", "true")
    it.config("filter.e.v=i l.clean", it.program("filter-odd"))
    it.config("filter.evil2.clean", it.program("filter-2"))
    it.write(".gitattributes", "* filter=evil\n*.bin filter=evil2\ntrain.py filter=e.v=i\n")


def attributes(it: Hostile) -> None:
    it.config("filter.evil.clean", it.program("attributes"))
    it.write(".git/info/attributes", "* filter=evil ident text\n")
    it.config("core.attributesFile", str(it.write("attributes", "* filter=evil\n")))


def monitor(it: Hostile) -> None:
    it.config("core.fsmonitor", it.program("fsmonitor"))
    it.git("update-index", "--fsmonitor", check=False)


def hooks(it: Hostile) -> None:
    for name in ("post-index-change", "fsmonitor-watchman", "pre-auto-gc", "reference-transaction"):
        hook = it.folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(Path(it.program(f"hook-{name}")).read_text())
        hook.chmod(0o755)
    it.config("core.hooksPath", ".git/hooks")


def words(it: Hostile) -> None:
    for key in (
        "core.pager", "pager.status", "pager.config", "pager.rev-parse", "core.editor", "core.askPass",
        "core.sshCommand", "core.gitProxy", "credential.helper", "diff.external", "diff.evil.command",
        "diff.evil.textconv", "merge.evil.driver", "gpg.program", "gpg.ssh.program", "sequence.editor",
        "interactive.diffFilter", "uploadpack.packObjectsHook", "core.alternateRefsCommand", "browser.x.cmd",
    ):  # fmt: skip
        it.config(key, it.program(key))
    for key in ("status", "config", "rev-parse", "ls-files", "check-attr", "diff-index"):
        it.config(f"alias.{key}", "!" + it.program(f"alias-{key}"))
    it.config("alias.st", "!" + it.program("alias-st"))
    it.config("status.submoduleSummary", "true")
    it.write(".gitattributes", "* diff=evil merge=evil\n")


def included(it: Hostile) -> None:
    """More of it, in files that the configuration takes in."""
    other = it.folder / ".git" / "other"
    it.git("config", "-f", str(other), "filter.evil.clean", it.program("included"))
    it.git("config", "-f", str(other), "core.fsmonitor", it.program("included-fsmonitor"))
    it.config("include.path", "other")
    it.config("includeIf.onbranch:trunk.path", "other")
    it.config("extensions.worktreeConfig", "true")
    it.config("--worktree", "filter.evil.process", it.program("worktree"))
    it.write(".gitattributes", "* filter=evil\n")


def submodule(it: Hostile) -> None:
    other = Repository(it.folder / "part")
    it.git("add", "part")
    it.write(
        ".gitmodules",
        '[submodule "part"]\n\tpath = part\n\turl = ./part\n\tignore = none\n',
    )
    it.config("submodule.part.update", "!" + it.program("submodule-update"))
    other.config("filter.evil.clean", it.program("submodule-filter"))
    other.config("core.fsmonitor", it.program("submodule-fsmonitor"))
    other.config("core.worktree", str(other.folder))
    other.write(".gitattributes", "* filter=evil\n")
    it.git("commit", "-qm", "x")


def promisor(it: Hostile) -> None:
    """Objects are missing, and the configuration says how they are to be had."""
    it.config("extensions.partialClone", "origin")
    it.config("remote.origin.promisor", "true")
    it.config("remote.origin.url", f"ext::{it.program('ext')} %S")
    it.config("remote.origin.uploadpack", it.program("uploadpack"))
    it.config("protocol.allow", "always")
    it.config("core.sshCommand", it.program("ssh"))
    tree = it.git("rev-parse", "HEAD^{tree}").strip()
    (it.folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


def promisor_over_ssh(it: Hostile) -> None:
    promisor(it)
    it.config("remote.origin.url", "ssh://host/r")


def promisor_on_disk(it: Hostile) -> None:
    promisor(it)
    it.config("remote.origin.url", str(it.folder))


KINDS = {
    one.__name__: one
    for one in (
        submodule, monitor, hooks, words, attributes, included, filters,
        promisor, promisor_over_ssh, promisor_on_disk,
    )
}  # fmt: skip


@pytest.fixture
def hostile(tmp_path):
    return Hostile(tmp_path / "hostile")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["nothing", "touched", "changed"])
def test_nothing_runs_whatever_a_repository_names(hostile, kind, change):
    KINDS[kind](hostile)
    if change != "nothing":
        hostile.touch()
    if change == "changed":
        hostile.write("train.py", "print(1)\n")
    for path in hostile.marks.iterdir():
        path.unlink()  # of making it
    state = hostile.state()
    assert hostile.ran() == []
    assert state["branch"] == "trunk" and len(state["commit"]) == 40
    assert state["dirty"] in ((True, None) if change == "changed" else (False, None))


def test_all_of_it_together_where_the_user_trusts_every_folder(hostile, tmp_path):
    for name, make in KINDS.items():
        if not name.startswith("promisor_"):
            make(hostile)
    hostile.touch()
    (tmp_path / "home" / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    if os.geteuid() == 0:
        for path in [hostile.folder, *hostile.folder.rglob("*")]:
            os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    for path in hostile.marks.iterdir():
        path.unlink()
    assert hostile.state()["branch"] == "trunk"
    assert hostile.ran() == []


@pytest.mark.parametrize("kind", ["filters", "attributes", "monitor", "included", "submodule"])
def test_a_plain_status_would_run_them(hostile, kind):
    """The tests above mean something: git itself runs these."""
    KINDS[kind](hostile)
    for path in hostile.marks.iterdir():
        path.unlink()
    hostile.touch()
    hostile.git("status", "--porcelain", check=False)
    assert hostile.ran()


@pytest.mark.parametrize("place", ["evil", "evil.git"])
def test_a_bare_repository_inside_is_none(hostile, place):
    """A folder of a tree may look like a repository (objects, refs, HEAD) without being called .git."""
    inside = hostile.folder / place
    hostile.git("init", "-q", "--bare", str(inside))
    for key in ("core.fsmonitor", "core.pager", "filter.evil.clean"):
        hostile.git("config", "-f", str(inside / "config"), key, hostile.program(key))
    hostile.git("config", "-f", str(inside / "config"), "core.bare", "false")
    hostile.git("config", "-f", str(inside / "config"), "core.worktree", str(hostile.folder))
    hostile.git("--git-dir", str(hostile.folder / ".git"), "push", "-q", str(inside), "trunk")
    for path in hostile.marks.iterdir():
        path.unlink()
    hostile.state(inside)
    assert hostile.ran() == []


VARIABLES = (
    "GIT_EXTERNAL_DIFF GIT_PAGER GIT_EDITOR GIT_SEQUENCE_EDITOR GIT_ASKPASS GIT_SSH GIT_SSH_COMMAND "
    "GIT_PROXY_COMMAND GIT_TRACE GIT_TRACE_SETUP GIT_TRACE_PERFORMANCE GIT_TRACE2 GIT_TRACE2_EVENT "
    "GIT_TRACE2_PERF GIT_CONFIG GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE "
    "GIT_EXEC_PATH GIT_TEMPLATE_DIR GIT_OBJECT_DIRECTORY GIT_COMMON_DIR GIT_REDIRECT_STDERR GIT_ATTR_SOURCE"
).split()


def test_nothing_runs_whatever_the_environment_names(hostile):
    """A submission may come from a hook, from an editor, or from where somebody else has set variables."""
    hostile.config("filter.own.clean", "cat")
    hostile.write(".gitattributes", "* filter=evil\n")
    programs = hostile.folder.parent / "exec"
    programs.mkdir()
    for name in ("git", "git-status", "git-rev-parse", "git-config"):
        (programs / name).write_text(Path(hostile.program(f"exec-{name}")).read_text())
        (programs / name).chmod(0o755)
    environ = {name: hostile.program(name) for name in VARIABLES}
    for name in VARIABLES:
        if "TRACE" in name:
            environ[name] = str(hostile.marks / name)
    environ |= {
        "GIT_EXEC_PATH": str(programs),
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": hostile.program("count-fsmonitor"),
        "GIT_CONFIG_KEY_1": "filter.evil.clean", "GIT_CONFIG_VALUE_1": hostile.program("count-filter"),
        "GIT_CONFIG_PARAMETERS": f"'core.fsmonitor'='{hostile.program('parameters')}'",
        "PAGER": hostile.program("PAGER"), "EDITOR": hostile.program("EDITOR"),
    }  # fmt: skip
    hostile.touch()
    state = hostile.state(**environ)
    assert hostile.ran() == []
    assert (state["branch"], state["dirty"]) == ("trunk", False)


@pytest.mark.parametrize("entry", [".", "", "bin", "./bin", "../hostile/bin"])
def test_a_git_of_the_tree_itself_is_none(hostile, monkeypatch, entry):
    for place in ("git", "bin/git"):
        hostile.write(place, Path(hostile.program(f"own-{place.replace('/', '-')}")).read_text()).chmod(0o755)
    monkeypatch.chdir(hostile.folder)
    state = hostile.state(PATH=f"{entry}:/usr/bin:/bin")
    assert hostile.ran() == [] and state["branch"] == "trunk"
