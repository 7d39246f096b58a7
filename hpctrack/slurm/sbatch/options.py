"""sbatch's options: which tokens are options, which is the script, and what they ask for. Pure.

Facts from Slurm's sources (src/sbatch/opt.c, src/common/slurm_opt.c, releases 19.05 to 26.05) and glibc's
``getopt_long``: options end at the first other word; unique prefixes of long names are accepted; a lone ``:``
separates the components of a heterogeneous job and is otherwise invisible; the command line is stronger
than ``SBATCH_*`` variables, and those than ``#SBATCH`` lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Whether an option takes a value, as in <getopt.h>. An OPTIONAL value stands in the same token.
NONE, REQUIRED, OPTIONAL = 0, 1, 2

_WITHOUT_VALUE = """
    consolidate-segments contiguous external help hold ignore-pbs no-requeue overcommit oversubscribe parsable
    quiet reboot share spread-job spread-segments stepmgr test-only usage use-min-nodes verbose version wait
"""
_WITH_OPTIONAL_VALUE = "exclusive get-user-env nice no-kill oom-kill-step propagate requeue resv-ports"
_WITH_VALUE = """
    account acctg-freq array autocomplete batch bb bbf begin chdir checkpoint cluster cluster-constraint
    clusters comment constraint container container-id container-type context core-spec cores-per-socket
    cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude export
    export-file extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
    gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type mail-user
    mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus network nodefile nodelist nodes
    ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket ntasks-per-tres open-mode
    output partition power prefer priority profile qos reservation resources runtime segment signal
    sockets-per-node switches tasks-per-node thread-spec threads-per-core time time-min tmp tres-bind
    tres-per-task uid wait-all-nodes wckey wrap
"""
#: Long options of every release; none of them ever changed whether it takes the next token.
KNOWN: Mapping[str, int] = {
    **dict.fromkeys(_WITHOUT_VALUE.split(), NONE),
    **dict.fromkeys(_WITH_OPTIONAL_VALUE.split(), OPTIONAL),
    **dict.fromkeys(_WITH_VALUE.split(), REQUIRED),
}
_SHORT = {
    "A": "account", "a": "array", "b": "begin", "D": "chdir", "M": "clusters", "C": "constraint",
    "S": "core-spec", "c": "cpus-per-task", "d": "dependency", "m": "distribution", "e": "error",
    "x": "exclude", "B": "extra-node-info", "G": "gpus", "h": "help", "H": "hold", "i": "input",
    "J": "job-name", "L": "licenses", "k": "no-kill", "F": "nodefile", "w": "nodelist", "N": "nodes",
    "n": "ntasks", "o": "output", "O": "overcommit", "s": "oversubscribe", "p": "partition", "q": "qos",
    "Q": "quiet", "t": "time", "v": "verbose", "V": "version", "W": "wait",
}  # fmt: skip
#: Variables that act like the options we need to know; of two for the same option the later one wins.
_VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_CLUSTERS": "clusters",
    "SLURM_CLUSTERS": "clusters",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_TIMELIMIT": "time",
}
# Descriptions, which may begin with an option too, stand further right.
_HELP_LINE = re.compile(r"^ {1,10}(?:-\w,?\s+)?--([A-Za-z][\w.-]*)(\[?=|\[)?", re.MULTILINE)
_DIRECTIVE = re.compile(r"#S(?:BATCH|LURM)(?P<hetjob>\s*(?i:hetjob|packjob)(?=\s|\Z))?")


class Option(NamedTuple):
    """One option as given. ``places`` are those in the argument list that it takes up."""

    name: str
    value: str | None
    component: int
    places: tuple[int, ...]


class CommandLine(NamedTuple):
    """An argument list of sbatch, read as sbatch reads it."""

    options: tuple[Option, ...]
    #: Place of the script in the list; None where there is none.
    script: int | None
    #: An option that is not known here or lacks its value: all else is guesswork. None if all is clear.
    unknown: str | None = None
    #: Place of a word that was taken for the value of a plugin's option, which might not take one.
    doubtful: int | None = None
    #: Components of a heterogeneous job; 1 for any other.
    components: int = 1

    def value(self, *names: str, component: int | None = None) -> str | None:
        """Return the value of an option, the last one given; None if it was not."""
        given = None
        for option in self.options:
            if option.name in names and component in (None, option.component):
                given = option.value
        return given

    def places(self, name: str) -> set[int]:
        """Return the places in the list that an option takes up."""
        return {place for option in self.options if option.name == name for place in option.places}

    def has(self, *names: str, component: int | None = None) -> bool:
        """Whether one of these options was given; with ``component``, to that one."""
        return any(option.name in names and component in (None, option.component) for option in self.options)


def parse_help(text: str) -> dict[str, int]:
    """Read the long options, plugins' ones included, out of ``sbatch --help``.

    A plugin's option with an optional value can't be told from one that requires it (src/common/spank.c
    prints both as ``--name=value``); brackets around values of sbatch's own mean little, so `KNOWN` is
    stronger.
    """
    table: dict[str, int] = {}
    for name, value in _HELP_LINE.findall(text):
        table[name] = OPTIONAL if value.startswith("[") else REQUIRED if value else NONE
    return {**table, **{name: KNOWN[name] for name in table if name in KNOWN}}


def unfamiliar(arguments: Sequence[str], listed: Mapping[str, int]) -> bool:
    """Whether reading the arguments needs to know more of the site's options than ``listed``."""
    parsed = parse(arguments, listed)
    return parsed.unknown is not None or (
        not listed and any(_is_prefix(arguments[option.places[0]], option.name) for option in parsed.options)
    )


def _is_prefix(word: str, name: str) -> bool:
    return word.startswith("--") and word[2:].partition("=")[0] != name


def parse(arguments: Sequence[str], listed: Mapping[str, int]) -> CommandLine:
    """Read an argument list of sbatch (without ``sbatch``). ``listed`` are the options of `parse_help`."""
    options: list[Option] = []
    script = unknown = doubtful = None
    words = _places(arguments)
    for place, component in words:
        word = arguments[place]
        if word == "--":
            script = next(words, (None, 0))[0]
        elif not word.startswith("-") or word == "-":
            script = place
        if script is not None or word == "--":
            break
        wants, unknown = _read(word, place, component, listed, options)
        if unknown:
            break
        if wants:
            following = next(words, (None, 0))[0]
            if following is None:
                unknown = word
                break
            last = options[-1]
            options[-1] = last._replace(value=arguments[following], places=(place, following))
            doubtful = doubtful if last.name in KNOWN else following
    components = 1 + list(arguments[:script]).count(":")
    return CommandLine(tuple(options), script, unknown, doubtful, components)


def _places(arguments: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (place, component of the heterogeneous job) of every word but the separators."""
    component = 0
    for place, word in enumerate(arguments):
        if word == ":":
            component += 1
        else:
            yield place, component


def _read(
    word: str, place: int, component: int, listed: Mapping[str, int], options: list[Option]
) -> tuple[bool, str | None]:
    """Append the options of one word; return whether the last wants the next word, and what is unknown."""
    if not word.startswith("--"):
        return _read_short(word, place, component, options)
    given, equals, value = word[2:].partition("=")
    name, arity = _resolve(given, listed)
    if name is None:
        return False, "--" + given
    options.append(Option(name, value if equals else None, component, (place,)))
    return arity == REQUIRED and not equals, None


def _read_short(word: str, place: int, component: int, options: list[Option]) -> tuple[bool, str | None]:
    """Read ``-Hn4``: letters without a value, and one with what is left of the word, or the next one."""
    for position, letter in enumerate(word[1:], 1):
        name = _SHORT.get(letter)
        if name is None:
            return False, "-" + letter
        rest = word[position + 1 :]
        arity = KNOWN[name]
        options.append(Option(name, rest if arity and rest else None, component, (place,)))
        if arity:
            return arity == REQUIRED and not rest, None
    return False, None


def _resolve(given: str, listed: Mapping[str, int]) -> tuple[str | None, int]:
    """Find the option that a name or a unique prefix means; (None, 0) if that can't be told.

    What is listed is surely there, while `KNOWN` names options of all releases: it decides only where the
    list, which leaves some out, has nothing.
    """
    for table in (listed, KNOWN):
        if given in table:
            return given, table[given]
    for table in (listed, KNOWN):
        names = [name for name in table if name.startswith(given)]
        if len({table[name] == REQUIRED for name in names}) == 1:
            return names[0] if len(names) == 1 else given, table[names[0]]
    return None, 0


# ---- #SBATCH lines ---------------------------------------------------------------------------------------


def directives(lines: Iterable[str]) -> list[str]:
    """Return the arguments in the ``#SBATCH`` lines of a comment block, with ``:`` between components.

    Raises ValueError for a line that sbatch refuses.
    """
    arguments: list[str] = []
    for line in lines:
        directive = _DIRECTIVE.match(line)
        if directive is not None:
            arguments += [":"] if directive["hetjob"] else []
            arguments += split(line[directive.end() :])
    return arguments


def split(text: str) -> Iterator[str]:
    """Split a directive into arguments by sbatch's rules, which are not the shell's.

    Quotes group, a backslash takes the next character as it is, ``#`` begins a comment anywhere outside of
    quotes. Raises ValueError for a quote that is not closed.
    """
    argument: str | None = None
    for character, separates in _unquoted(text):
        if not separates:
            argument = (argument or "") + character
        elif argument is not None:
            yield argument
            argument = None
    if argument is not None:
        yield argument


def _unquoted(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character that counts, and whether it separates arguments, up to a comment."""
    quote = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            yield next(characters, ""), False
        elif quote:
            if character == quote:
                quote = ""
            else:
                yield character, False
        elif character in "\"'":
            quote = character
        elif character == "#":
            break
        else:
            yield character, character.isspace()
    if quote:
        raise ValueError(f"unmatched {quote} in {text.strip()!r}")


# ---- what a submission asks for --------------------------------------------------------------------------


class Request(NamedTuple):
    """What we need to know of a submission; of a heterogeneous job its first component."""

    job_name: str | None = None
    array: str | None = None
    #: Seconds; None where it is not given, or unlimited.
    time_limit: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    clusters: str | None = None
    chdir: str | None = None
    test_only: bool = False
    components: int = 1


def request(command: CommandLine, environ: Mapping[str, str], script: CommandLine | None) -> Request:
    """Combine command line, ``SBATCH_*`` variables and ``#SBATCH`` lines with sbatch's precedence."""

    def ask(*names: str) -> str | None:
        given = command.value(*names, component=0)
        if given is None:
            for variable, option in _VARIABLES.items():
                if option in names:
                    given = environ.get(variable, given)
        if given is None and script is not None:
            given = script.value(*names, component=0)
        return given

    lines = [command, *([script] if script else [])]
    return Request(
        job_name=ask("job-name"),
        array=ask("array") or None,
        time_limit=seconds(ask("time")),
        partition=ask("partition"),
        account=ask("account"),
        qos=ask("qos"),
        clusters=ask("clusters", "cluster"),
        chdir=ask("chdir"),
        test_only=any(line.has("test-only") for line in lines),
        components=max(line.components for line in lines),
    )


_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?\Z")


def seconds(text: str | None) -> float | None:
    """Read a time limit (sbatch's manual page, ``--time``); None for none, unlimited, or what is not one."""
    match = _TIME.match(text or "")
    if match is None:
        return None
    days, first, second, third = (int(group or 0) for group in match.groups())
    if match[1] is not None or match[4] is not None:  # days-hours[:minutes[:seconds]], hours:minutes:seconds
        return float(days * 86400 + first * 3600 + second * 60 + third)
    return float(first * 60 + second)
