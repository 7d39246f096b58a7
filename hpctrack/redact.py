"""What is a secret, and what a copy shows in its place.

Everything hpctrack stores or sends goes through a `Redactor` first: environment, arguments, batch script,
submit line, git remotes, stderr tails, messages of exceptions. The job itself always gets its own bytes.

Two kinds of evidence are combined on the same original text. *Patterns* see a secret by what stands around it
(the name it is assigned to, its URL or header) or by its shape (`ghp_...`, private keys). *Known values* are
what the patterns found in the environment, the arguments and the script; they are masked wherever else they
appear, percent-encoded, in base64 or quoted as well. In doubt a copy shows less, but numbers, paths, booleans
and references (`$TOKEN`, `$(cat file)`) are no secrets, whatever they are assigned to.

Pure, and standard library only: compute nodes import this with `python -I -S`, so only `re` and `binascii`.
No pattern scans again what it has scanned, bounded look-ahead apart: time grows linearly with the text.
"""

from __future__ import annotations

import binascii
import re

TYPE_CHECKING = False  # `typing` costs more than the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

MASK = "***"

_KNOWN_LENGTH = 4  # shorter values would mask half the text; they are still masked where they stand
_PASSES = 6  # the second sees what the first one joined; more are needed by texts made for it only

_BOUNDARY = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SECRET_WORDS = re.compile(r"""(?x)(?:^|_)(?:
        token | secrets? | [a-z]*(?:password|passwd|passphrase)s? | passcode | (?<=_)pwd | (?<=_)pass
      | sshpass | creds? | credentials? | jwt | bearer | authorization | otp | (?:user|db|root|admin|bind)_?pw
      | (?:api|access|auth|oauth|bearer|refresh|session|secret|client|hf|github|gitlab)_?tokens?
      | (?:api|app|access|account|application|auth|deploy|encryption|license|master|private|secret|service
         |signing|storage|subscription|ssh|wandb|openai|anthropic|azure|aws|comet|neptune|hpctrack)_?keys?
      | (?:gh|github|git|gitlab|bitbucket|ado|azure|devops|jira|databricks|snowflake|my|user)_pat
      | (?:rediscli|basic|http|proxy)_auth | docker_auth_config | (?:amz|goog|access)_signature
    )\d*(?=_|$)""")
# Words of language models, OAuth and multi-pass algorithms mean something else, and are taken out first.
_OTHER_MEANINGS = re.compile(r"""(?x)(?:^|_)(?:
        (?:max|min|num|n|total|avg|per|pad|padding|eos|bos|unk|cls|sep|mask|image|special|stop)_token
      | token_(?:count|limit|len|length|type|url|uri|endpoint|budget|level|classification|ttl|expiry|lifetime)
      | (?:forward|backward|first|second|third|single|multi|one|two|last|final|low|high|band|by|tests?)_pass
      | (?:old|init)_pwd
    )(?=_|$)""")
_PLACE = re.compile(r"_(?:files?|path|dir|directory|folder)$")  # where a secret is, not what it is


def is_secret_name(name: str) -> bool:
    """Whether a variable, option, field or key of this name holds a secret.

    Whole segments count, split at punctuation and in camelCase: `HF_TOKEN`, `--api-key`, `wandb.apiKey` are
    secret names; `TOKENIZERS_PARALLELISM`, `max_tokens`, `PWD` and `SECRET_FILE` are not.
    """
    segments = _BOUNDARY.sub("_", name).strip("_").lower()
    return not _PLACE.search(segments) and bool(_SECRET_WORDS.search(_OTHER_MEANINGS.sub("_", segments)))


_PLAIN = re.compile(r"""(?xi)(?:
        [-+]?(?:0x[0-9a-f]+|(?:\d[\d_,]*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)[kmgtbis%]{0,3}  # 4k, 16GiB
      | true|false|yes|no|on|off|none|null|nil|str|bytes|int|bool|string|Optional\[str\]|str[ ]*\|[ ]*None
      | (?:file:/{1,3}|(?:~[\w.-]*|\.{1,2}|[a-z]:|\$\w+|\$\{\w+\})?[/\\])[\w./\\:,@%+=~{}$*[\] -]*
      | [\w.-]+(?:/[\w.-]+)+\.(?:txt|json|key|pem|ya?ml|toml|ini|cfg|conf|env|token|secret|crt|pub|sh|py)
    )\Z""")
# One in 64 AWS keys starts with a slash.
_KEY_NOT_PATH = re.compile(r"(?=.*[A-Z])(?=.*[a-z])(?=.*\d)(?:[A-Za-z0-9+/]{40}|[A-Za-z0-9+/]{22,}={1,2})\Z")
_REFERENCE = re.compile(r"\$\(|`|\{\{|(?:\$\{[^{}]*\}|\$[\w@*#?!]+|[:@/.-]){1,9}\Z|<\w[^<>]*>\Z|\{[\w.]+\}\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*\Z")
# A mask has as many lines as what it stands for.
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def _is_plain(value: str) -> bool:
    """Whether a value is no secret under any name: empty, a number, a boolean, a path, or masked already."""
    value = value.strip()
    return not value.strip("* \t\r\n") or bool(_PLAIN.match(value) and not _KEY_NOT_PATH.match(value))


def _is_harmless(value: str) -> bool:
    return _is_plain(value) or bool(_REFERENCE.match(value.strip()))


def _is_known(value: str) -> bool:
    """Whether to look for a secret elsewhere; the password `password` would mask the word everywhere."""
    return (
        len(value) >= _KNOWN_LENGTH
        and not _is_harmless(value)
        and not (value.isalpha() and is_secret_name(value))
    )


# A word after the blank that is itself assigned to is the next assignment: `TOKEN= X=1 command`.
# NAME=, "name":, environ["NAME"] =, ${NAME:-; --name value, "--name", "value"; csh, fish; setenv("NAME", "v")
_ASSIGNMENT = re.compile(r"""(?x)(?<![\w.-])([\w.-]+)(?:\\*["'])?[\])]{0,2}[ \t]*
        (?: :[ \t]*[A-Za-z][\w.[\] |]{0,60}?[ \t]+=[ \t] | \+?={1,3}>? | :[=-] | :(?![:?+=]|//) )
        (?:[ \t]+(?![A-Za-z_]\w*=[^=\s]))?
      | (?<![\w.-])(--?[A-Za-z][\w.-]*)(?:[ \t]+|\\*["'][ \t]*,[ \t]*)(?=[^\s-])
      | (?<!\w)(?:setenv|set[ \t]+-\w+)[ \t]+(\w+)[ \t]+
      | (?<!\w)(?:putenv|setenv|setdefault|getenv|get)\([ \t]*["']([\w.-]+)["'][ \t]*,[ \t]*
    """)
_SCHEME = r"(?:(?:Bearer|Basic|Digest|Token|ApiKey|Negotiate)[ \t]+)?"
_VALUE = re.compile(rf"""(?x)(?P<escape>\\*)[rbfuRBFU]{{0,2}}(?P<quote>\"\"\"|'''|["']){_SCHEME}
             (?P<quoted>(?:(?!(?P=escape)(?P=quote))(?:\\.|[^\\\n]))*)
       | [\[(](?P<listed>[^\])\n]*)
       | {_SCHEME}(?!\$\(|`|\{{\{{|[A-Za-z_][\w.]*[(\[])   # what a command or a function gives
             (?P<bare>(?:[^\s"'`&,]|[&,](?![\w.-]+=|[&\s"']|\Z)|(?<=\w)["'](?=\w))+)""")
_FLAG = re.compile(r"-+(?:no|use|with|without|enable|disable|skip|require|ask|prompt)[-_]")
_USERINFO = re.compile(r"""(?x)(?P<user>[^\s:/?#@"'<>\\]*)
        (?: :(?!\d{1,5}(?:[/?#\s"']|\Z))(?:(?P<secret>(?:[^\s/"'<>]|["'](?=\w))*)@|(?P<slashed>[^\s"'<>@]+)@)
          | :(?P<digits>\d+)@ | @ )""")
_TOKEN_AS_USER = re.compile(r"(?=[^\d]*\d)[\w.~%+-]{16,}\Z")
_COMMANDS = re.compile(r"""(?x)\b(?:
            (?:curl|wget)\b[^\n]{0,300}?\s(?:-u|--user|--proxy-user)[ =]?["']?[^\s:"'$]{0,99}:
          | (?:mysql|mariadb)[\w-]*\b[^\n]{0,300}?\s-p(?=\S) | sshpass[ ]+-p[ ]*
          | (?:docker|podman|apptainer|singularity|helm)\b[^\n]{0,99}?\slogin\b[^\n]{0,300}?\s-p[ ]+
          | (?:machine|login|account)\s+[^\s;,]+\s+password\s+
        )["']?(?P<secret>[^\s"']+)""")
_SHAPES = re.compile(r"""(?x)(?P<secret>(?<![A-Za-z0-9])(?:
        gh[opusr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | gl[a-z]{2,5}-[\w-]{20,} | hf_[A-Za-z0-9]{20,}
      | sk-(?:proj|ant|svcacct|admin|or|lf)-[\w-]{16,} | sk-[A-Za-z0-9]{20,} | [rs]k_(?:live|test)_\w{16,}
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9]) | xox[a-z]-[\w-]{10,} | xapp-[\w-]{20,} | AIza[\w-]{35}
      | ya29\.[\w-]{20,} | npm_[A-Za-z0-9]{36} | pypi-[\w-]{40,} | wandb_v\d_\w{20,} | nvapi-[\w-]{20,}
      | SG\.[\w-]{16,}\.[\w-]{16,} | (?<![\w-])eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*
      ) | (?<=hooks\.slack\.com/services/)[\w/]+ | (?<=[?&]sig=)[^\s&"']+ | (?<=;PWD=)[^\s;"']+
        | (?<=\bBearer[ ])(?=[^\d\s]*\d)[\w.~+/-]{16,}=*)""")
_NO_SCHEME = re.compile(r"""(?x)(?<![\w./:@-])[\w.-]+:(?P<secret>[^\s:/@"']+)@(?!sha\d)
        (?:tcp\( | unix\( | [\w.-]+:\d{2,5}(?!\w))""")
_PRIVATE_KEY = re.compile(r"""(?xs)-----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----
        (?P<body>.*?) (?:(?P<end>-----END[ ]) | (?=-----BEGIN[ ]) | \Z)""")
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{16,}")


def _assigned(text: str) -> Iterator[tuple[int, int, bool]]:
    """Values under a secret name."""
    position = 0
    while found := _ASSIGNMENT.search(text, position):
        position = found.end()
        group = found.lastindex or 1
        name = found[group]
        value = _VALUE.match(text, position) if is_secret_name(name) else None
        if value is None or (group == 2 and _FLAG.match(name)):
            continue
        kind = value.lastgroup or "bare"
        start, content = value.start(kind), value[kind]
        literal = value["quote"] == "'" and not content.startswith(("${", "$(", "{{"))
        if _REFERENCE.match(content) and not literal:
            continue  # the default in `${NAME:-default}` is found by its own name
        if kind == "bare":
            content = content.rstrip(";,)}]>|")
        position = max(position, start + len(content))
        if not _is_plain(content):
            # An argument passed on (`token=args.token`) or a word after a colon is masked, not spread.
            word = kind == "bare" and _IDENTIFIER.match(content)
            prose = ":" in text[found.end(group) : found.end()]
            passed_on = is_secret_name(content) and not name.isupper()
            yield start, start + len(content), not (word and (prose or passed_on))


def _in_urls(text: str) -> Iterator[tuple[int, int, bool]]:
    """Passwords in `scheme://user:password@host`, and tokens in the place of the user."""
    start = text.find("://")
    while start >= 0:
        following = text.find("://", start + 3)
        found = _USERINFO.match(text, start + 3, following if following >= 0 else len(text))
        start = following
        if not found:
            continue
        user, secret = found["user"], found["secret"] or found["slashed"] or found["digits"] or ""
        is_password = secret not in ("", "x-oauth-basic")  # the places where the token is the user
        if is_password and not _REFERENCE.match(secret):
            yield found.end() - 1 - len(secret), found.end() - 1, True
        bare = not is_password and ":" in found[0]
        if (bare or _TOKEN_AS_USER.match(user)) and not _REFERENCE.match(user):
            yield *found.span("user"), True


def _patterns(text: str) -> Iterator[tuple[int, int, bool]]:
    """Spans of `text` that are secret by themselves, and whether to look for their values elsewhere."""
    yield from _assigned(text)
    yield from _in_urls(text)
    for found in _PRIVATE_KEY.finditer(text):  # where the end was cut off, only what looks like a key
        for line in (_LINE if found["end"] else _KEY_LINE).finditer(text, *found.span("body")):
            yield *line.span(), True
    for pattern in (_COMMANDS, _NO_SCHEME, _SHAPES):
        for found in pattern.finditer(text):
            if not _is_harmless(found["secret"]):
                yield *found.span("secret"), True


_JSON = {c: f"\\u{c:04x}" for c in range(32)}
_UTF16 = "utf-16-be", "surrogatepass"
_JSON |= {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def _bytes(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _unquoted(value: str) -> tuple[str, str]:
    """What a value means if it is percent-encoded, and if it has backslashes."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), _bytes(value))
    return raw.decode("utf-8", "surrogateescape"), re.sub(r"\\(.)", r"\1", value.replace("\\n", "\n"))


def _forms(value: str) -> Iterator[str]:
    """A value as it is, percent-encoded, in base64, and quoted for JSON, Python, libpq and shells."""
    raw = _bytes(value)
    percent = re.sub(rb"[^A-Za-z0-9._~-]", lambda found: b"%%%02X" % ord(found[0]), raw).decode()
    yield from (value, percent, percent.replace("%20", "+"))
    yield re.sub("%..", lambda found: found[0].lower(), percent)
    for offset in range(3):  # within a longer encoded text: the characters that hold nothing but the value
        encoded = binascii.b2a_base64(bytes(offset) + raw, newline=False).decode()
        inner = encoded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6]
        for form in (inner, encoded) if not offset else (inner,):
            if len(form) >= 2 * _KNOWN_LENGTH:
                yield from (form, form.replace("+", "-").replace("/", "_"))
    escaped = value.translate(_JSON)
    ascii_only = re.sub(
        r"[^\0-\x7f]", lambda found: re.sub("(....)", r"\\u\1", found[0].encode(*_UTF16).hex()), escaped
    )
    yield from (escaped, ascii_only, escaped.translate(_JSON), ascii_only.translate(_JSON))
    yield repr(value)[1:-1]
    yield value.replace("\\", "\\\\").replace("'", "\\'")
    yield from (value.replace("'", "'\\''"), value.replace("'", "'\"'\"'"))
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", value)


def _occurrences(form: str, text: str) -> Iterator[tuple[int, int]]:
    """All occurrences, overlapping ones too; those of `abab` in a long `abab...` as one, to stay linear."""
    start = text.find(form)
    period = (form + form).find(form, 1) if start >= 0 else 0
    while start >= 0:
        end = start + len(form)
        while 2 * period <= len(form) and end < len(text) and text[end] == text[end - period]:
            end += 1
        yield start, end
        start = text.find(form, end - len(form) + 1)


class Redactor:
    """Masks secrets in copies of texts, environments, arguments and JSON values.

    `Redactor()` goes by patterns alone; `Redactor.collect(...)` also knows the secret values of a submission.
    All methods are pure, give `MASK` for what is secret, and give back their own results unchanged.
    """

    __slots__ = ("_forms", "known")

    known: frozenset[str]
    """The values that are masked wherever they appear. Never to be shown."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = frozenset(value for value in map(str.strip, known) if _is_known(value))
        forms = {form for value in self.known for form in _forms(value)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    @classmethod
    def collect(cls, env: Mapping[str, str], argv: Sequence[str] = (), texts: Iterable[str] = ()) -> Redactor:
        """A redactor that knows the secret values in an environment, arguments and texts (scripts)."""
        known: list[str] = []
        known += (value for name, value in env.items() if is_secret_name(name) and not _is_harmless(value))
        known += (argv[i][start:] for i, start in _secret_arguments(argv))
        for text in (*texts, " ".join(argv), *argv, *env.values()):
            known += (text[start:end] for start, end, spread in _patterns(text) if spread)
        for value in tuple(known):
            known += _unquoted(value)
            known += _KEY_LINE.findall(value) if "\n" in value or "\\n" in value else ()
        return cls(known)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self.known)} known values>"

    def text(self, text: str) -> str:
        """`text` with its secrets masked, line by line; everything else stays byte for byte."""
        for _ in range(_PASSES):
            before, text = text, self._pass(text)
            if text == before:
                break
        return text

    def environ(self, env: Mapping[str, str]) -> dict[str, str]:
        """A copy of an environment: values under secret names masked whole, the others as texts."""
        return self.value(dict(env))  # type: ignore[no-any-return]

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A copy of a command's arguments, one for one: `--token X`, `--api-key=X`, `wandb.api_key=X`."""
        copy = list(argv)
        for index, start in _secret_arguments(argv):
            copy[index] = argv[index][:start] + _LINE.sub(MASK, argv[index][start:])
        return [self.text(argument) for argument in copy]

    def value(self, obj: Any, *, secret: bool = False) -> Any:
        """A copy of a JSON value; `secret` says that it stands under a secret key.

        Strings anywhere under a secret key are masked whole, other lists of strings go as arguments.
        """
        if isinstance(obj, str):
            return self.text(_LINE.sub(MASK, obj) if secret and not _is_harmless(obj) else obj)
        if isinstance(obj, dict):
            below = {key: secret or is_secret_name(str(key)) for key in obj}
            return {self.value(key): self.value(item, secret=below[key]) for key, item in obj.items()}
        if isinstance(obj, (list, tuple)):
            if not secret and all(isinstance(item, str) for item in obj):
                return self.argv(obj)
            return [self.value(item, secret=secret) for item in obj]
        return obj

    def _pass(self, text: str) -> str:
        secret = bytearray(len(text))  # a mark per character: of overlapping secrets no remainder shows
        for start, end, *_ in _patterns(text):
            secret[start:end] = b"x" * (end - start)
        for form in self._forms:
            for start, end in _occurrences(form, text):
                secret[start:end] = b"x" * (end - start)
        pieces, done = [""], 0
        for start, end in (run.span() for run in re.finditer(b"x+", secret)):
            if text[start:end].strip("*\r\n \t"):  # what is masked stays as it is
                pieces += (text[done:start], _LINE.sub(MASK, text[start:end]))
                done = end
        return "".join((*pieces, text[done:]))


_NAMED_ARGUMENT = re.compile(r"[-+~]*[\w.@/-]+=")
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*\Z")


def _secret_arguments(argv: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(index, start) of the arguments that are secret from `start` to their end."""
    passwords = [found["secret"] for found in _COMMANDS.finditer(" ".join(argv))]
    previous = ""
    for index, argument in enumerate(argv):
        assignment = _NAMED_ARGUMENT.match(argument)
        start = assignment.end() if assignment else 0
        option = _OPTION.match(argument)
        if is_secret_name(previous) and not option:
            start = 0
        elif not (assignment and is_secret_name(assignment[0])):
            start = len(argument)
        if not _is_harmless(argument[start:]):
            yield index, start
        for secret in passwords:
            if argument in (secret, "-p" + secret) or argument.endswith(":" + secret):
                yield index, len(argument) - len(secret)
        previous = argument if option and not _FLAG.match(argument) else ""
