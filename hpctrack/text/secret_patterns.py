"""What looks like a secret: names, values, and what stands around them in texts. See `redact`.

`patterns` finds secrets in a text, `given` those of command lines that have no name. Pure, and standard
library only, as few modules as can be. No pattern scans again what it has scanned, bounded look-ahead apart:
time grows linearly with the text.
"""

from __future__ import annotations

import binascii
import functools
import itertools
import re

from hpctrack.text import secret_commands

TYPE_CHECKING = False  # `typing` costs more than the rest
if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN_LENGTH = 4  # shorter values would mask half the text; they are still masked where they stand
_RANDOM_LENGTH = 16  # what is random, and shorter, can not be told from a name with a version
_MOST_RANDOM = 1024  # of what may be random no more is looked at
_NAME_LENGTH = 200  # of a name that is longer only the end is looked at

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
# Under these names only what looks random is a secret.
_WEAK_WORDS = re.compile(r"""(?x)(?:^|_)(?:
        keys? | auth | pass | pwd | pat | sig | signature | session(?:_?id)? | cookie | webhook | hook | dsn
      | pw | license | login | sas | x_amz_[a-z_]+
    )\d*(?=_|$)""")
_PASSWORD = re.compile(r"(?:^|_)(?:[a-z]*(?:password|passwd|passphrase)|passcode|pwd|pass|pw)\d*$")
# Words of language models, OAuth and multi-pass algorithms mean something else, and are taken out first.
_OTHER_MEANINGS = re.compile(r"""(?x)(?:^|_)(?:
        (?:max|min|num|n|total|avg|per|pad|padding|eos|bos|unk|cls|sep|mask|image|special|stop)_token
      | (?:token|secret|password|passphrase|credential|pass|cred|key)s?_(?:count|limit|len|length|type|url|uri
         |endpoint|budget|level|classification|ttl|expiry|lifetime|name|policy|provider|prefix|env|var|variable
         |ref|field|header|command|cmd|method|store|manager|helper|timeout|required|stdin|size|column|prompt)
      | (?:forward|backward|first|second|third|single|multi|one|two|last|final|low|high|band|by|tests?)_pass
      | (?:public|primary|foreign|sort|cache|partition|group|shared_?host|host)_keys? | (?:old|init)_pwd
    )(?=_|$)""")
_PLACE = re.compile(r"_(?:files?|path|dir|directory|folder)$")  # where a secret is, not what it is


def is_secret_name(name: str) -> bool:
    """Whether a variable, option, field or key of this name holds a secret.

    Whole segments count, split at punctuation and in camelCase: `HF_TOKEN`, `--api-key`, `wandb.apiKey` are
    secret names; `TOKENIZERS_PARALLELISM`, `max_tokens`, `PWD` and `SECRET_FILE` are not.
    """
    return strength(name) >= _SURE


_NONE, _MAYBE, _SURE, _EVEN_DIGITS = range(4)


def strength(name: str) -> int:
    """What a name tells of its value: nothing, a secret if it looks random, a secret, one even of digits."""
    return _strength(name[-_NAME_LENGTH:])


@functools.lru_cache(maxsize=4096)
def _strength(name: str) -> int:
    segments = _BOUNDARY.sub("_", name).strip("_").lower()
    if _PLACE.search(segments):
        return _NONE
    segments = _OTHER_MEANINGS.sub("_", segments)
    if _SECRET_WORDS.search(segments):
        return _EVEN_DIGITS if _PASSWORD.search(segments) else _SURE
    return _MAYBE if _WEAK_WORDS.search(segments) else _NONE


_SWITCH = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_ONE_WORD = re.compile(r"(?![A-Za-z_]+\d*\Z)[A-Za-z0-9+/_.~=-]+\Z")
_CLASSES = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^a-zA-Z0-9]+")


def _is_random(value: str) -> bool:
    """Whether letters and digits follow one another as nobody would name a thing: `q4Zt9...`, not `v2-b`."""
    may_be = len(value) >= _RANDOM_LENGTH and bool(_ONE_WORD.match(value))
    return may_be and 7 * len(_SWITCH.findall(value)) >= len(value)


def is_word(value: str) -> bool:
    """Whether a known value may well be part of something else: `train`, `v100`, `resnet50`."""
    if len(value) >= _RANDOM_LENGTH:
        return False
    runs = _CLASSES.findall(value)
    kinds = {(run.islower(), run.isupper(), run.isdigit()) for run in runs}
    return len(value) < 8 or (len(runs) < 4 and len(kinds) < 3)


_PLAIN = re.compile(r"""(?xi)(?:
        [-+]?(?:0x[0-9a-f]+|(?:\d[\d_,]*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)[kmgtbis%]{0,3}  # 4k, 16GiB
      | true|false|yes|no|on|off|none|null|nil|str|bytes|int|bool|string|Optional\[str\]|str[ ]*\|[ ]*None
      | (?:file:/{1,3}|(?:~[\w.-]*|\.{1,2}|[a-z]:|\$\w+|\$\{\w+\})?[/\\])[\w./\\:,@%+=~{}$*[\] -]*
      | [\w.-]+(?:/[\w.-]+)+\.(?:txt|json|key|pem|ya?ml|toml|ini|cfg|conf|env|token|secret|crt|pub|sh|py)
    )\Z""")
# One in 64 AWS keys starts with a slash.
_KEY_NOT_PATH = re.compile(r"(?=.*[A-Z])(?=.*[a-z])(?=.*\d)(?:[A-Za-z0-9+/]{40}|[A-Za-z0-9+/]{22,}={1,2})\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")
_USER_AND_PASSWORD = re.compile(rb"[\w.@+-]+:[ -~]+\Z")
_REFERENCE = re.compile(
    r"\$\(|`|\{\{|\$\{\w+:?\?|(?:\$\{[^{}]*\}|\$[\w@*#?!]+|[:@/.-]){1,9}\Z|<\w[^<>]*>\Z|\{[\w.]+\}\Z"
)
_IDENTIFIER = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*\Z")
# A mask has as many lines as what it stands for.
LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def is_plain(value: str) -> bool:
    """Whether a value is no secret under any name: empty, a number, a boolean, a path, or masked already."""
    value = value.strip()
    return not value.strip("* \t\r\n") or bool(_PLAIN.match(value) and not _KEY_NOT_PATH.match(value))


def is_harmless(value: str) -> bool:
    """Whether a value is no secret under any name, or says where one is."""
    return is_plain(value) or bool(_REFERENCE.match(value.strip()))


def is_reference(value: str) -> bool:
    """Whether a value stands for another: a variable, what a command prints, a template."""
    return bool(_REFERENCE.match(value.strip()))


def is_secret(name: str, value: str) -> bool:
    """Whether a value is a secret that is no reference, under this name."""
    how = strength(name)
    if how == _MAYBE:
        return (_is_random(value) and not is_plain(value)) or _is_user_and_password(value)
    if how == _EVEN_DIGITS and len(value) >= KNOWN_LENGTH and value.isdecimal():
        return True
    return how > _MAYBE and not is_plain(value)


def _is_user_and_password(value: str) -> bool:
    """Whether it is base64 of `user:password`, as basic authentication and Docker have it."""
    if len(value) % 4 or len(value) < 8 or not _BASE64.match(value):
        return False
    return bool(_USER_AND_PASSWORD.match(binascii.a2b_base64(value)))


def is_known(value: str) -> bool:
    """Whether to look for a secret elsewhere; the password `password` would mask the word everywhere."""
    return (
        len(value) >= KNOWN_LENGTH
        and not is_harmless(value)
        and not (value.isalpha() and is_secret_name(value))
    )


# {"name": "NAME", "value": "v"}; NAME=, "name":, environ["NAME"] =, ${NAME:-; --name value, "--name", "v";
# csh, fish, Docker; setenv("NAME", "v"); read NAME <<< v; <name>v</name>
# A word after the blank that is itself assigned to is the next assignment: `TOKEN= X=1 command`.
_ASSIGNMENT = re.compile(r"""(?x)(?<!\w)(?:[Nn]ame|[Kk]ey)(?:\\*["'])?[ \t]*[:=][ \t]*(?:\\*["'])?([\w.-]+)
          (?:\\*["'])?,?\s{1,99}(?:\\*["'])?[Vv]alue(?:\\*["'])?[ \t]*[:=][ \t]*
      | (?<![\w.-])([\w.-]+)(?:\\*["'])?[\])}]{0,2}[ \t]*
        (?: :[ \t]*[A-Za-z][\w.[\] |]{0,60}?[ \t]+=[ \t] | [+?!]?={1,3}>? | :[=-] | :(?![:?+=]|//) )
        (?: (?<=:)[ \t]*(?:[|>][+-]?)?\n[ \t]+(?![\w.-]+[ \t]*[:=]|-[ ]) | (?:[ \t]*\\\n)+[ \t]*
          | [ \t]+(?![A-Za-z_]\w*=[^=\s]) )?
      | (?<![\w.-])(--?[A-Za-z][\w.-]*)(?:(?:[ \t]|\\\n)+|\\*["'][ \t]*,\s{0,99})(?=[^\s-])
      | (?<!\w)(?:setenv|set[ \t]+-\w+|printf[ \t]+-v|ENV|ARG|read(?:[ \t]+-\w+)*(?=[ \t]+\w+[ \t]*<<<))[ \t]+
          ([\w./:-]+)[ \t]+(?:<<<[ \t]*|["']?%[sbq](?:\\n)?["']?[ \t]+)?
      | (?<!\w)(?:putenv|setenv|setdefault|getenv|get)\([ \t]*["']([\w.-]+)["'][ \t]*,[ \t]*
      | (?<=<)([\w.:-]+)>(?=[^<\s])
    """)
_PLAIN_NAME, _OPTION_NAME = 2, 3  # groups of it
_SCHEME = r"(?:(?i:Bearer|Basic|Digest|Token|ApiKey|Negotiate)[ \t]+)?"
# In quotes, over lines where they close; in brackets; without any.
_VALUE = re.compile(rf"""(?xs)(?P<escape>\\*)(?:[rbfuRBFU@]{{0,2}}|\$)(?P<quote>\"\"\"|'''|["']){_SCHEME}
             (?P<quoted>(?:(?!(?P=escape)(?P=quote))(?:\\.|[^\\])){{0,4096}}(?=(?P=escape)(?P=quote))
                       |(?:(?!(?P=escape)(?P=quote))(?:\\.|[^\\\n]))*)
       | [\[(](?P<listed>[^\])\n]*)
       | {_SCHEME}(?!\$\(|`|\{{\{{|[A-Za-z_][\w.]*[(\[])   # what a command or a function gives
             (?P<bare>(?:[^\s"'`&,<]|<(?!/)|[&,](?![\w.-]+=|[&\s"']|\Z)|(?<=\w)["'](?=\w))+)""")
# What a command gives that is told what to give.
_SAID = re.compile(r"""(?x)"?(?:\$\(|`)[ ]*(?:[\w-]+(?:[ ]+-\w+)*[ ]*<<<[ ]*
        |cat[ ]*<<-?[ ]*["'\\]?\w+["']?[ ]*\n[ \t]*
        |(?:echo|printf)[ ]+(?:-\w+[ ]+|["']?%[sb](?:\\n)?["']?[ ]+)*)["']?(?P<said>[^\s"'`)|]+)""")
FLAG = re.compile(r"-+(?:no|use|with|without|enable|disable|skip|require|ask|prompt)[-_]")
_USERINFO = re.compile(r"""(?x)(?P<user>[^\s:/?#@"'<>\\]*)
        (?: :(?!\d{1,5}(?:[/?#\s"']|\Z))(?:(?P<secret>(?:[^\s/"'<>]|["'](?=\w))*)@|(?P<slashed>[^\s"'<>@]+)@)
          | :(?P<digits>\d+)@ | @ )""")
_TOKEN_AS_USER = re.compile(r"(?=[^\d]*\d)[\w.~%+-]{16,}\Z")
# What somebody tells somebody. Words follow more often than passwords: see `_is_told`.
_SENTENCE = re.compile(r"""(?xi)\b(?:(?P<password>pass(?:word|wd|phrase|code)|pwd?|secret)
        |(?P<key>(?:api|access|secret|auth|private|licen[cs]e|account)[ _-]?key)|token)s?
        (?:[ ]+(?:for|of|to)[ ]+\S{1,80}(?:[ ]\S{1,80})?)?
        [ ]+(?:is|was|are|will[ ]be)(?:[ ]+(?:now|still|just))?:?[ ]+["'`]?(?P<secret>[^\s"'`<>()]{6,})""")
_MEASURE = re.compile(r"""(?xi)(?: \d[\d.,x+-]*[ -]?[a-z]+
    | (?:sha|md|v|ver|version|utf|base|rsa|aes|argon|bcrypt|scrypt|pbkdf|type|level)[_-]?\d[\w.-]* )\Z""")
_WORDS = re.compile(r"[^\s\"']+")
_ANYTHING = re.compile(r"[^\W_]")
_ONE_RANDOM = re.compile(r"(?<![\w.:/+~@=-])(?:key=)?(?P<secret>[A-Za-z0-9+/_.~=-]{16,})")
# How providers' tokens begin, of which characters the rest is, and how many of them there are at least.
# Source of most: config/gitleaks.toml of gitleaks, of others the providers' own pages.
_TOKENS = {
    r"[A-Za-z0-9]*": """
        ghp_20 gho_20 ghu_20 ghs_20 ghr_20 hf_20 api_org_30 gsk_20 r8_20 xai-40 sk-20 pplx-30 fw_20
        jina_30 ABSK80 LTAI16 npm_36 CLOJARS_50 NRAK-20 lin_api_30 ntn_40 secret_43 EZAK50 EZTK50 pnu_36
        AKCp60 cmVmd50 EAA80 p8e-32 AGE-SECRET-KEY-1:50 rdme_60 sk_40 sbp_40 figd_40 nfp_36 csk-40 rpa_40
        e2b_40 cfut_40 tgp_v1_:40 zpka_30 apify_api_30 ATBB32 whsec_30 rnd_28""",
    r"[\w-]*": """
        github_pat_20 glpat-20 gldt-20 glft-20 glrt-20 glptt-20 glcbt-20 glagent-20 gloas-20 glsoat-20
        glimt-20 glffct-20 GR1348941:20 sk-proj-16 sk-ant-16 sk-svcacct-16 sk-admin-16 sk-or-16 sk-lf-16
        sk_live_10 sk_test_10 sk_prod_10 rk_live_10 rk_test_10 rk_prod_10 nvapi-20 lsv2_pt_30 lsv2_sk_30
        pcsk_30 tvly-20 wandb_v1_20 AIza35 GOCSPX-20 1//0:30 xoxa-10 xoxb-10 xoxc-10 xoxd-10 xoxe-10
        xoxo-10 xoxp-10 xoxr-10 xoxs-10 xoxe.xoxb-20 xoxe.xoxp-20 xapp-20 pypi-40 dckr_pat_20
        dckr_oat_20 xkeysib-60 hvs.20 hvb.60 PMAK-40 sq0atp-22 sq0csp-22 EAAA22 tskey-20 AQVN35
        HRKU-AA40 sha256~43 A3-25 ico-32 sgp_40 ya29.20 phc_40 phx_40 sl.60 tk-us-40 duffel_live_40
        duffel_test_40""",
    r"[A-Z0-9]*": "AKIA16 ASIA16 ABIA16 ACCA16 A3T17",
    r"[0-9A-Fa-f]*": """
        rubygems_40 key-32 SK32 dapi32 dop_v1_40 doo_v1_40 dor_v1_40 pul-40 shpat_32 shpca_32 shppa_32
        shpss_32 shippo_live_30 shippo_test_30 local-40 sntryu_60""",
    r"[\w+/=.~-]*": """
        eyJhcGlfYWRkcmVzcyI6:20 ATATT3:40 ATCTT3:40 dp.pt.40 dp.st.40 dp.ct.40 dp.sa.40 dt0c01.60
        sntrys_30 glsa_32 glc_32 pscale_tkn_30 pscale_oauth_30 pscale_pw_30 tfp_40 fo1_40 fm1r_40
        fm1a_40 fm2_40 ops_eyJ60 SG.34 v1.0-100""",
}
_RESTS = {
    prefix.rstrip(":"): (re.compile(characters), int(least))
    for characters, words in _TOKENS.items()
    for prefix, least in re.findall(r"(\S+?)(\d+)(?:\s|$)", words)
}
_PREFIX = re.compile(
    r"(?<![A-Za-z0-9])(?:" + "|".join(sorted(map(re.escape, _RESTS), key=lambda word: -len(word))) + ")"
)
# What else is recognised by a few fixed characters: those, and what then stands around their end.
_MARKED = {
    mark: re.compile(rest)
    for mark, rest in {
        "eyJ": r"(?<![\w-]eyJ)[\w-]{8,}\.[\w-]{4,}\.[\w-]*",
        ".": r"(?<=[A-Za-z\d]{23}\.)[\w-]{6}\.[\w-]{27,38}(?![\w.-])",
        ":AA": r"(?<=\d{8}:AA)[\w-]{31,}",
        "Q~": r"(?<=[\w~.]{3}\dQ~)[\w~.-]{31,34}",
        ".atlasv1.": r"[\w=-]{40,}",
        "hooks.slack.com/": r"\w+/[\w/]+",
        "hooks.zapier.com/hooks/catch/": r"[\w/]+",
        "/webhookb2/": r"[^\s\"'<>]+",
        "/webhooks/": r"\d{15,}/[\w-]+",
        "/with/key/": r"[\w-]+",
        "/bot/v2/hook/": r"[\w-]+",
        "/IncomingWebhook/": r"[\w/-]+",
        "/hooks/": r"(?=[A-Za-z]*\d)[A-Za-z0-9]{17,}(?:/\w+)?",
        "hc-ping.com/": r"[\w-]+",
        "api.telegram.org/bot": r"[^\s/\"']+",
        "sig=": r"(?<=[?&]sig=)[^\s&\"']+",
        ";PWD=": r"[^\s;\"']+",
        "Bearer ": r"(?=[^\d\s]*\d)[\w.~+/-]{16,}=*",
    }.items()
}
_PGPASS = re.compile(r"(?m)^[\w.*\\-]+:(?:\d{2,5}|\*):[\w.*\\-]+:[\w.*\\@-]+:(?P<secret>[^\s:]\S*)$")
_BASIC = re.compile(r"\bBasic[ ]+(?P<secret>[A-Za-z0-9+/]{8,}={0,2})")
_NO_SCHEME = re.compile(r"""(?x)(?<![\w./:@-])[\w.-]+:(?P<secret>[^\s:/@"']+)@(?!sha\d)
        (?:tcp\( | unix\( | [\w.-]+:\d{2,5}(?!\w))""")
_PRIVATE_KEY = re.compile(r"""(?xs)-----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----
        (?P<body>.*?) (?:(?P<end>-----END[ ]) | (?=-----BEGIN[ ]) | \Z)""")
KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{16,}")
_KEY_END = re.compile(r"(?m)^-----END [A-Z ]{0,30}PRIVATE KEY")

#: How a shell's text in single quotes goes on behind one: it'\''s and it'"'"'s are it's.
_QUOTE_IN_QUOTES = re.compile(r"""(?:'(?:\\'|"'")'[^'\n]*)+""")
#: What may stand before a name in a shell: what is assigned in quotes may have several lines.
_DECLARATION = re.compile(
    r"(?:[ \t]|(?:export|declare|typeset|local|readonly|env)\b|-\w+\b|\w+=[^\s\"']*[ \t])*\Z"
)


def _behind_quotes(text: str, end: int) -> int:
    more = _QUOTE_IN_QUOTES.match(text, end)
    return more.end() if more else end


def _assigned(text: str) -> Iterator[tuple[int, int, bool]]:
    """Values under a secret name."""
    position = 0
    while match := _ASSIGNMENT.search(text, position):
        position = match.end()
        how = _strength_of(match)
        value = _value(text, match, how) if how else None
        if value is None:
            continue
        kind, start, content = value
        is_its_secret = is_secret(match[match.lastindex or 1], content)
        if is_its_secret or how > _MAYBE:  # else what stands there may itself be an assignment
            position = max(position, start + len(content))
        if is_its_secret:
            is_word = kind == "bare" and bool(_IDENTIFIER.match(content))
            yield start, start + len(content), not (is_word and _is_passed_on(text, match, content))


def _strength_of(match: re.Match[str]) -> int:
    """What the name of an assignment tells of its value: nothing, if it is an option that takes none."""
    group = match.lastindex or 1
    is_switch = group == _OPTION_NAME and FLAG.match(match[group])
    return _NONE if is_switch else strength(match[group])


def _value(text: str, match: re.Match[str], how: int) -> tuple[str, int, str] | None:
    """What is assigned: its kind, where it starts, and its text; None where it is no value."""
    position = match.end()
    end = position + _MOST_RANDOM if how == _MAYBE else len(text)
    value = _SAID.match(text, position) or _VALUE.match(text, position, end)
    if value is None:
        return None
    kind = value.lastgroup or "bare"
    start, content = value.start(kind), value[kind]
    if kind == "quoted" and value["quote"] == "'":
        content = text[start : _behind_quotes(text, start + len(content))]
        kind = "single"
    if _says_nothing(kind, content) or _is_line_of_code(text, match):
        return None
    if kind == "bare":
        content = content.rstrip(":;,)}]>|")
    if "\n" in content and not _may_have_lines(text, match):
        content = content[: content.index("\n")]
    return kind, start, content


def _says_nothing(kind: str, content: str) -> bool:
    """Whether what is assigned stands for another value, or has no letter and no digit.

    The default in `${NAME:-default}` is found by its own name. In single quotes a shell replaces nothing.
    """
    may_refer = kind != "single" or content.startswith(("${", "$(", "{{"))
    return bool(may_refer and _REFERENCE.match(content)) or not _ANYTHING.search(content)


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    """What stands before an assignment's name in its line, and what between the name and the value."""
    begin, end = match.span(match.lastindex or 1)
    return text[text.rfind("\n", 0, begin) + 1 : begin], text[end : match.end()]


def _is_line_of_code(text: str, match: re.Match[str]) -> bool:
    """Whether what looks like a name and its value in the next line is `if token:`, and a line of code."""
    if match.lastindex != _PLAIN_NAME or "\n" not in match[0]:
        return False
    before, between = _around(text, match)
    return "\n" in between.replace("\\\n", "") and bool(before.strip("- \t\"'"))


def _may_have_lines(text: str, match: re.Match[str]) -> bool:
    """Whether what is assigned is a shell's, whose quotes may hold several lines."""
    return match[0].endswith("=") and bool(_DECLARATION.match(_around(text, match)[0]))


def _is_passed_on(text: str, match: re.Match[str], word: str) -> bool:
    """Whether a word is an argument passed on (`token=args.token`), or stands behind a colon, as in prose.

    It is masked there, and not looked for elsewhere.
    """
    name = match[match.lastindex or 1]
    return ":" in _around(text, match)[1] or (is_secret_name(word) and not name.isupper())


def given(text: str) -> Iterator[tuple[int, int]]:
    """Passwords and keys that commands take without a name: `mysql -pX`, `wandb login X`, `echo X|kinit`."""
    yield from _behind_options(text)
    literals = (secret_commands.LITERAL, secret_commands.LITERALS)
    for match in itertools.chain(secret_commands.PIPED.finditer(text), _inside(text, *literals)):
        if not _REFERENCE.match(match["secret"]):
            yield match.span("secret")
    yield from _in_sentences(text)
    yield from _set(text)
    logins = _inside(text, _ONE_RANDOM, secret_commands.LOGIN)
    for match in itertools.chain(secret_commands.SHORT_OPTION.finditer(text), logins):
        if _is_random(match["secret"]) and not is_plain(match["secret"]):
            yield match.span("secret")


def _inside(text: str, pattern: re.Pattern[str], where: re.Pattern[str]) -> Iterator[re.Match[str]]:
    for line in where.finditer(text):
        yield from pattern.finditer(text, *line.span())


def _behind_options(text: str) -> Iterator[tuple[int, int]]:
    """What stands behind a command's option for a password: `mysql -pX`, `curl -u "user:X"`."""
    for match in secret_commands.COMMANDS.finditer(text):
        start, quote = match.end(), match["user"] or match["quote"]
        end = text.find(quote, start) if quote else -1
        if end < 0:
            value = _VALUE.match(text, start)
            bare = value["bare"] if value else None
            end = start + len((bare or "").rstrip(";)|"))
        if not is_harmless(text[start:end]) or text[start:end].isdecimal():
            yield start, end


def _in_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Secrets in sentences: `the password is X`."""
    for match in _SENTENCE.finditer(text):
        told = match["secret"].rstrip(".,;:")
        if _is_told(told, random=not (match["password"] or match["key"])):
            yield match.start("secret"), match.start("secret") + len(told)


def _set(text: str) -> Iterator[tuple[int, int]]:
    """What commands set under a secret name that is a word of its own: `aws configure set ... X`."""
    for line in secret_commands.SETTING.finditer(text):
        for name, value in itertools.pairwise(_WORDS.finditer(text, *line.span("words"))):
            if is_secret_name(name[0]) and "=" not in name[0] and not is_harmless(value[0]):
                yield value.span()


def _is_told(value: str, *, random: bool) -> bool:
    """Whether what stands behind `the password is` is one, and no word, number, measure or version of it.

    ``random``: behind other words, such as `token`, only what looks random is one.
    """
    if is_harmless(value) or _MEASURE.match(value[:_NAME_LENGTH]):
        return False
    has_both = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return has_both and (not random or _is_random(value))


def _in_urls(text: str) -> Iterator[tuple[int, int, bool]]:
    """Passwords in `scheme://user:password@host`, and tokens in the place of the user."""
    start = text.find("://")
    while start >= 0:
        following = text.find("://", start + 3)
        match = _USERINFO.match(text, start + 3, following if following >= 0 else len(text))
        if match:
            yield from _in_userinfo(match)
        start = following


def _in_userinfo(match: re.Match[str]) -> Iterator[tuple[int, int, bool]]:
    user, secret = match["user"], match["secret"] or match["slashed"] or match["digits"] or ""
    is_password = secret not in ("", "x-oauth-basic")  # the places where the token is the user
    if is_password and not _REFERENCE.match(secret):
        yield match.end() - 1 - len(secret), match.end() - 1, True
    bare = not is_password and ":" in match[0]
    if (bare or _TOKEN_AS_USER.match(user)) and not _REFERENCE.match(user):
        yield *match.span("user"), True


def patterns(text: str) -> Iterator[tuple[int, int, bool]]:
    """Spans of `text` that are secret by themselves, and whether to look for their values elsewhere."""
    yield from _assigned(text)
    yield from _in_urls(text)
    for start, end in (*given(text), *_tokens(text), *_marked(text), *_key_tails(text)):
        yield start, end, True
    for match in _PRIVATE_KEY.finditer(text):  # where the end was cut off, only what looks like a key
        for line in (LINE if match["end"] else KEY_LINE).finditer(text, *match.span("body")):
            yield *line.span(), True
    for pattern in (_NO_SCHEME, _PGPASS, _BASIC):
        for match in pattern.finditer(text):
            secret = match["secret"]
            if not is_harmless(secret) and (pattern is not _BASIC or _is_user_and_password(secret)):
                yield *match.span("secret"), True


def _tokens(text: str) -> Iterator[tuple[int, int]]:
    """What begins as a provider's tokens do."""
    match = _PREFIX.search(text)
    while match:
        characters, least = _RESTS[match[0]]
        end = match.end()
        rest = characters.match(text, end)
        if rest and len(rest[0]) >= least:
            end = rest.end()
            yield match.start(), end
        match = _PREFIX.search(text, end)


def _marked(text: str) -> Iterator[tuple[int, int]]:
    """What stands behind a mark that only stands before secrets."""
    for mark, pattern in _MARKED.items():
        start = text.find(mark)
        while start >= 0:
            rest = pattern.match(text, start + len(mark))
            if rest and not is_harmless(rest[0]):
                yield rest.span()
            start = text.find(mark, rest.end() if rest else start + len(mark))


def _key_tails(text: str) -> Iterator[tuple[int, int]]:
    """Lines of private keys whose beginning was cut off."""
    done = 0
    for end in _KEY_END.finditer(text):
        start = last = end.start()
        while start > done and KEY_LINE.fullmatch(
            line := text[text.rfind("\n", done, start - 1) + 1 : start - 1]
        ):
            yield start - 1 - len(line), start - 1
            start -= len(line) + 1
        done = last
