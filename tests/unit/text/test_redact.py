"""What is masked in copies, and what stays."""

# ruff: noqa: E501 - tables are read row by row

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from hpctrack.text import redact
from hpctrack.text.redact import MASK, Redactor
from hpctrack.text.secret_patterns import is_secret_name

SECRET = "q7Xv-9zKw2mB"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "c2VjcmV0IGJvZHkgb2YgYSBrZXkgZmls", "AB+/=="]
PRIVATE_KEY = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *KEY_LINES, "-----END RSA PRIVATE KEY-----"])


@pytest.mark.parametrize(
    "name",
    """
    TOKEN token HF_TOKEN GITHUB_TOKEN GITHUB_TOKEN_1 HUGGING_FACE_HUB_TOKEN --token --hub-token api_token
    ACCESS_TOKEN accessToken APIToken authtoken _authToken API_TOKENS SECRET CLIENT_SECRET client-secret
    secrets.db AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN PASSWORD PASSWD password
    db.password DB_PASSWORDS PGPASSWORD dbpassword MYSQL_PWD REDIS_PASSWORD REDISCLI_AUTH SSHPASS
    ANSIBLE_BECOME_PASS MYSQL_PASS passphrase GPG_PASSPHRASE WANDB_API_KEY OPENAI_API_KEY api_key apiKey
    APIKey api-key x-api-key apikey wandb.api_key wandb.apiKey CREDENTIAL CREDENTIALS db_creds GH_PAT
    GITHUB_PAT private_key PRIVATE_KEY privateKey SLURM_JWT Authorization Proxy-Authorization X-Auth-Token
    X-Amz-Signature X-Amz-Credential AccountKey SharedAccessKey HPCTRACK_DSN_PASSWORD HPCTRACK_KEY
    DOCKER_AUTH_CONFIG DB_PW ENCRYPTION_KEY SSH_KEY Token SecretString
    """.split(),
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    """
    PATH HOME PWD OLDPWD OLD_PWD pwd TOKENIZERS_PARALLELISM tokenizer --tokenizer-name max_tokens
    --max-tokens maxTokens num_tokens max_new_tokens pad_token eos_token_id bos_token tokens_per_batch
    token_type_ids TOKEN_URL SSH_AUTH_SOCK XAUTHORITY AUTHOR SECRETARY SECRET_FILE RESTIC_PASSWORD_FILE key
    KEY keys keyboard monkey sort_key primary_key KEYMAP passes bypass PASSES forward_pass compass passenger
    epochs lr PATTERN spatial file_pat compat patience credit SLURM_JOB_ID SLURM_SUBMIT_DIR
    CUDA_VISIBLE_DEVICES tokenization detokenize hotkey
    """.split(),
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


def test_the_empty_name_is_none() -> None:
    assert not is_secret_name("")


# (text, what of it may not show); a text is masked by patterns alone, nothing is known
MASKED = [
    (f"export WANDB_API_KEY={SECRET}", SECRET),
    (f"HF_TOKEN={SECRET} python train.py", SECRET),
    (f"HF_TOKEN='{SECRET}'; python train.py", SECRET),
    (f'export PGPASSWORD="{SECRET} with blanks"', "blanks"),
    (f"+ export MYSQL_PWD={SECRET}", SECRET),
    (f"++ TOKEN={SECRET}", SECRET),
    (f"setenv WANDB_API_KEY {SECRET}", SECRET),
    (f"set -gx HF_TOKEN {SECRET}", SECRET),
    (f"set token = {SECRET}", SECRET),
    (f"#SBATCH --export=ALL,HF_TOKEN={SECRET},EPOCHS=3", SECRET),
    (f"export HF_TOKEN=${{HF_TOKEN:-{SECRET}}}", SECRET),
    (f": ${{HF_TOKEN:={SECRET}}}", SECRET),
    (f'os.environ["WANDB_API_KEY"] = "{SECRET}"', SECRET),
    (f"os.environ['WANDB_API_KEY']='{SECRET}'", SECRET),
    (f'os.environ.setdefault("WANDB_API_KEY", "{SECRET}")', SECRET),
    (f'os.getenv("HF_TOKEN", "{SECRET}")', SECRET),
    (f'token = os.environ.get("HF_TOKEN", "{SECRET}")', SECRET),
    (f"api_key = '{SECRET}'", SECRET),
    (f'api_key: str = "{SECRET}"', SECRET),
    (f'api_key = """{SECRET}"""', SECRET),
    (f'api_key = "{SECRET}', SECRET),
    (f'api_key = r"{SECRET}"', SECRET),
    (f'wandb.login(key=x, api_key="{SECRET}", y=1)', SECRET),
    (f'if token == "{SECRET}":', SECRET),
    (f"python x.py --token {SECRET} --epochs 3", SECRET),
    (f'python x.py --token "{SECRET}"', SECRET),
    (f"python x.py --api-key={SECRET}", SECRET),
    (f"python x.py --api-key='{SECRET} b'", SECRET),
    (f"python x.py wandb.api_key={SECRET} lr=3", SECRET),
    (f"python x.py +wandb.api_key={SECRET}", SECRET),
    (f'args = ["--token", "{SECRET}"]', SECRET),
    (f'{{"api_key": "{SECRET}", "lr": 3}}', SECRET),
    (f'{{"a":{{"apiKey":"{SECRET}"}}}}', SECRET),
    (json.dumps(json.dumps({"token": f'{SECRET}"x'})), SECRET),
    (f"{{'password': '{SECRET}'}}", SECRET),
    (f'"passwords": ["a", "{SECRET}"]', SECRET),
    (f"password: {SECRET}", SECRET),
    (f"host=db user=me password={SECRET} dbname=x", SECRET),
    (f"host=db password = '{SECRET} it\\'s' dbname=x", "it\\'s"),
    (f"Server=db;UID=sa;PWD={SECRET};", SECRET),
    (f"postgresql://me:{SECRET}@db:5432/x", SECRET),
    ("postgresql://me:12345@db:5432/x", "12345"),
    (f"postgresql://me:{SECRET}@@db/x", SECRET),
    (f"postgresql://me:{SECRET}/a+b@db/x", SECRET),
    (f"redis://:{SECRET}@cache:6379/0", SECRET),
    (f"origin\thttps://me:{SECRET}@github.com/a/b.git (fetch)", SECRET),
    ("https://0123456789abcdef0123@github.com/a/b", "0123456789abcdef0123"),
    (f"https://{SECRET}:x-oauth-basic@github.com/a/b", SECRET),
    (f"https://{SECRET}:@api.example.org", SECRET),
    (f"http://a/b,https://me:{SECRET}@c", SECRET),
    (f"me:{SECRET}@tcp(db:3306)/x", SECRET),
    (f"proxy me:{SECRET}@proxy:8080", SECRET),
    (f"https://x.org/a?access_token={SECRET}&page=2", SECRET),
    (f"https://x.org/a?page=2&sig={SECRET}", SECRET),
    (f"curl -H 'Authorization: Bearer {SECRET}' https://x.org", SECRET),
    (f"Authorization: Basic {SECRET}", SECRET),
    ("got Bearer abcdefgh12345678ijkl", "abcdefgh12345678ijkl"),
    (f"curl -s -u me:{SECRET} https://x.org", SECRET),
    (f"curl --user 'me:{SECRET}' https://x.org", SECRET),
    (f"mysql -u me -p{SECRET} db", SECRET),
    (f"sshpass -p {SECRET} ssh me@host", SECRET),
    (f"docker login -u me -p {SECRET} reg.example.org", SECRET),
    (f"machine x.org login me password {SECRET}", SECRET),
    (f"machine x.org\n  login me\n  password {SECRET}\n", SECRET),
    (f"//registry.example.org/:_authToken={SECRET}", SECRET),
    ("AWS_SECRET_ACCESS_KEY=/JalrXUtnFEMIaK7MDENGabPxRfiCYEXAMPLEKEY", "JalrXUtnFEMI"),
    ("TOKEN=ab", "ab"),
    (f"got {JWT} back", JWT),
    *((f"no name, {token}.", token) for token in (
        "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2_" * 8, "glpat-" + "a1B2-" * 5, "hf_" + "a1B2" * 8,
        "sk-" + "a1B2" * 8, "sk-proj-" + "a1_-" * 8, "sk-ant-api03-" + "a1_-" * 8, "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdefGHI", "AIza" + "a1B2-" * 7,
    )),
    (f"x\n{PRIVATE_KEY}\ny", KEY_LINES[1]),
    (f"x\n{PRIVATE_KEY[:70]}", KEY_LINES[0][:30]),
    (json.dumps({"k": PRIVATE_KEY}), KEY_LINES[1]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), MASKED)
def test_text_is_masked_by_patterns_alone(text: str, secret: str) -> None:
    assert secret in text
    redacted = Redactor().text(text)
    assert secret not in redacted
    assert MASK in redacted
    assert redacted.count("\n") == text.count("\n")


STAYS = [
    "python train.py --max-tokens=512 --max-tokens 512",
    "export TOKENIZERS_PARALLELISM=false",
    "cd $PWD; echo PWD=/home/me OLDPWD=/home/you",
    "export SSH_AUTH_SOCK=/tmp/ssh-XXXX/agent.12",
    "GOOGLE_APPLICATION_CREDENTIALS=$HOME/.config/key.json",
    "python x.py --token $TOKEN --token ${TOKEN} --token=$TOKEN",
    'python x.py --token "$TOKEN" --token="${TOKEN}"',
    "export HF_TOKEN=$(cat ~/.hf/token)",
    'export HF_TOKEN="$(cat ~/.hf/token)"',
    "export HF_TOKEN=`cat ~/.hf/token`",
    "curl -H 'Authorization: Bearer $TOKEN' https://x.org",
    "curl -u $USER:$PASSWORD https://x.org",
    'curl -H "Authorization: Bearer ${TOKEN}" https://x.org',
    'token = os.environ["HF_TOKEN"]',
    "api_key=os.getenv('X')",
    "password = getpass.getpass()",
    "def login(token: str, password: str | None = None) -> None:",
    "wandb.api_key=${oc.env:WANDB_API_KEY}",
    "password: '{{ vault_password }}'",
    "--token-file secrets/token.txt --password /run/secrets/db",
    "--use-auth-token model --no-password db",
    "--pad-token [PAD] --eos-token </s> eos_token=<|end|>",
    "token=512 password=3.5e-4 secret=0x1f token=4k",
    "token=true password=None secret=no token= password=''",
    "max_tokens: 512, tokenizer: gpt2, lr=1e-3",
    '{"max_tokens": 512, "tokenizer": "gpt2", "token": null}',
    "http://localhost:8080/users/@me and https://x.org:443/a@b",
    "git@github.com:org/repo.git ssh://git@github.com:22/a/b https://me@github.com/a",
    "image ubuntu:22.04@sha256:0123456789abcdef",
    "mail me@example.org; a:b c@d, 12:30@home",
    "docker run -u 1000:1000 img",
    "mysql -u me -p db",
    "task-list risk-assessment-of-everything-long sk-learn hf_transfer",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "the forward_pass: done; a Bearer of news; std::token::Kind secret://x",
    "unknown option --tokens-per-batch auto",
    "for key in keys: sort_key = 'name'",
    "login me; password unknown",
    "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END PUBLIC KEY-----",
    "",
    "\udc80\ud800 \x00 caf\xe9 \u2028 \r\n",
]


@pytest.mark.parametrize("text", STAYS)
def test_text_that_stays(text: str) -> None:
    assert Redactor().text(text) == text
    assert Redactor.collect({}, texts=[text]).known == frozenset()


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("--token abcd --epochs 3", "--token *** --epochs 3"),
        ("A=1 TOKEN='a b' cmd", "A=1 TOKEN='***' cmd"),
        ("f(token=abcd, x=1)", "f(token=***, x=1)"),
        ("--export=ALL,TOKEN=abcd,X=1", "--export=ALL,TOKEN=***,X=1"),
        ("https://x/?token=abcd&x=1", "https://x/?token=***&x=1"),
        ("postgres://me:pw@db/x", "postgres://me:***@db/x"),
        ('{"token":"abcd","x":"y"}', '{"token":"***","x":"y"}'),
        ("Authorization: Bearer abcd", "Authorization: Bearer ***"),
        ("TOKEN=abcd; ls", "TOKEN=***; ls"),
        ("TOKEN=abcd&& ls", "TOKEN=***&& ls"),
        (
            f"a\n{PRIVATE_KEY}\nb",
            "a\n-----BEGIN RSA PRIVATE KEY-----\n***\n***\n***\n-----END RSA PRIVATE KEY-----\nb",
        ),
    ],
)
def test_only_the_secret_is_replaced(text: str, redacted: str) -> None:
    assert Redactor().text(text) == redacted


# ---- known values


@pytest.mark.parametrize(
    "text",
    [
        f"401 for {SECRET}!",
        f"x{SECRET}y",
        f"{SECRET}{SECRET}",
        json.dumps({"x": SECRET}),
    ],
)
@pytest.mark.parametrize(
    "redactor",
    [
        Redactor.collect({"HF_TOKEN": SECRET}),
        Redactor.collect({"DATABASE_URL": f"postgresql://me:{SECRET}@db/x"}),
        Redactor.collect({"ARGS": f"--token={SECRET}"}),
        Redactor.collect({}, ["train.py", "--token", SECRET]),
        Redactor.collect({}, [f"wandb.api_key={SECRET}"]),
        Redactor.collect({}, ["curl", "-u", f"me:{SECRET}", "https://x.org"]),
        Redactor.collect({}, ["mysql", f"-p{SECRET}"]),
        Redactor.collect({}, texts=[f"#!/bin/sh\nexport WANDB_API_KEY={SECRET}\n"]),
        Redactor.collect({}, texts=[f"os.environ['X_TOKEN'] = '{SECRET}'\n"]),
        Redactor.collect({"HF_TOKEN": f" {SECRET}\n"}),
    ],
)
def test_a_collected_value_is_masked_wherever_it_appears(redactor: Redactor, text: str) -> None:
    assert redactor.known == {SECRET}
    assert SECRET not in redactor.text(text)
    assert SECRET not in redactor.value({"x": [text]})["x"][0]
    assert SECRET not in redactor.environ({"X": text})["X"]
    assert SECRET not in redactor.argv([text])[0]


@pytest.mark.parametrize(
    "secret", ["p@ss w/rd'\"\\$x", "pässwörd-\N{GRINNING FACE}9", "tab\tand\nline9", "\udc80abc9"]
)
def test_other_writings_of_a_known_value_are_masked(secret: str) -> None:
    raw = secret.encode("utf-8", "surrogateescape")
    writings = [
        quote(raw, safe=""),
        quote(raw, safe="").lower(),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        secret.replace("'", "'\\''"),
        shlex.quote(secret)[1:-1],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    ]
    redactor = Redactor.collect({"PASSWORD": secret})
    for writing in writings:
        assert writing not in redactor.text(f"<{writing}>")
    for user in (
        ("m", "me", "you") if len(raw) > 8 else ()
    ):  # basic authentication: at any offset of the encoded text
        encoded = base64.b64encode(user.encode() + b":" + raw).decode()
        assert MASK in redactor.text(encoded)


def test_a_percent_encoded_password_is_known_decoded() -> None:
    redactor = Redactor.collect({"DATABASE_URL": "postgresql://me:p%40ss%2Fword9@db/x"})
    assert redactor.text("bad password 'p@ss/word9'") == "bad password '***'"


def test_no_remainder_of_overlapping_values_shows() -> None:
    redactor = Redactor.collect(
        {"A_TOKEN": "a1b2c3d4", "B_TOKEN": "c3d4e5f6", "C_TOKEN": "a1b2c3d4e5f6-long"}
    )
    assert redactor.text("<a1b2c3d4e5f6> <a1b2c3d4e5f6-long> <a1b2c3d4a1b2c3d4>") == "<***> <***> <***>"


@pytest.mark.parametrize(
    ("value", "text", "redacted"),
    [
        ("train", "python train.py --mode=train train/ retrain", "python train.py --mode=*** train/ retrain"),
        ("train", "the password is train.", "the password is ***."),
        (
            "train",
            "user:train@host 'train' \"train\", train; (train)",
            "user:***@host '***' \"***\", ***; (***)",
        ),
        (
            "train",
            "src/train train-set train_set pretrain trains",
            "src/train train-set train_set pretrain trains",
        ),
        ("v100", "--gres=gpu:v100:4 on v100s", "--gres=gpu:***:4 on v100s"),
        ("resnet50", "resnet50.pt resnet50_v2 resnet50", "resnet50.pt resnet50_v2 ***"),
        ("postgres", "postgresql://postgres@db import postgres", "postgresql://postgres@db import ***"),
        ("Tr0ub4dor&3", "xTr0ub4dor&3x", "x***x"),
        ("hunter2-hunter3", "a_hunter2-hunter3_b", "a_***_b"),
    ],
)
def test_a_known_value_that_may_be_a_word_counts_where_it_stands_alone(
    value: str, text: str, redacted: str
) -> None:
    assert Redactor.collect({"DB_PASSWORD": value}).text(text) == redacted


@pytest.mark.parametrize(
    "value",
    [
        "",
        "abc",
        "1234567",
        "3.25",
        "/home/me/token",
        "~/t",
        "true",
        "None",
        "$TOKEN",
        "token",
        "****",
        "1e10",
    ],
)
def test_values_that_would_mask_half_the_text_are_not_known(value: str) -> None:
    assert Redactor.collect({"TOKEN": value}, ["--token", value], [f"TOKEN={value}"]).known == frozenset()


def test_words_passed_on_in_code_are_masked_but_not_spread() -> None:
    redactor = Redactor.collect({}, texts=["login(token=args.token)\nerror: bad token: unexpected"])
    assert redactor.text("args.token is unexpected") == "args.token is unexpected"


def test_lines_of_a_known_private_key_are_masked_one_by_one() -> None:
    redactor = Redactor.collect({"DEPLOY": PRIVATE_KEY})
    assert redactor.text(f"cut {KEY_LINES[1]}") == "cut ***"


def test_nothing_shows_the_known_values() -> None:
    redactor = Redactor.collect({"HF_TOKEN": SECRET})
    assert repr(redactor) == str(redactor) == "<Redactor of 1 known values>"


# ---- environment, arguments, values


def test_environ() -> None:
    env = {
        "HOME": "/home/me", "PWD": "/w", "HF_TOKEN": "abc", "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "N_TOKEN": "5",
        "TOKENIZERS_PARALLELISM": "false", "SSH_AUTH_SOCK": "/tmp/a", "SSH_KEY_BODY": PRIVATE_KEY, "A_TOKEN": "12345",
        "DATABASE_URL": "postgres://u:pw@h/d", "ODD": "a\udc80", "SLURM_JWT": JWT, "PASSWORD_FILE": "abc", "A_SECRET": "",
        "B_SECRET": "/run/secret",
    }  # fmt: skip
    changed = {
        "HF_TOKEN": MASK, "AWS_ACCESS_KEY_ID": MASK, "SLURM_JWT": MASK, "DATABASE_URL": "postgres://u:***@h/d",
        "SSH_KEY_BODY": "\n".join([MASK] * 5),
    }  # fmt: skip
    before = dict(env)
    assert Redactor().environ(env) == env | changed
    assert env == before


@pytest.mark.parametrize(
    ("argv", "redacted"),
    [
        (["--token", "abc", "--lr", "3"], ["--token", MASK, "--lr", "3"]),
        (["--token", "a b\nc d"], ["--token", "***\n***"]),
        (["--api-key=a b"], ["--api-key=***"]),
        (["wandb.api_key=x,y=z"], ["wandb.api_key=***"]),
        (["-token", "x"], ["-token", MASK]),
        (["--token", "dGVzdA=="], ["--token", MASK]),
        (["--token", "--verbose", "x"], ["--token", "--verbose", "x"]),
        (["--token", "$TOKEN", "--token=${T}"], ["--token", "$TOKEN", "--token=${T}"]),
        (["--max-tokens", "many", "--max-tokens=512"], ["--max-tokens", "many", "--max-tokens=512"]),
        (["--token-file", "x", "--password", "/run/p"], ["--token-file", "x", "--password", "/run/p"]),
        (["--use-auth-token", "data"], ["--use-auth-token", "data"]),
        (["--export=ALL,TOKEN=abcd,X=1"], ["--export=ALL,TOKEN=***,X=1"]),
        (["--wrap", "x --token abcd"], ["--wrap", "x --token ***"]),
        (["curl", "-u", "me:pw", "u"], ["curl", "-u", "me:***", "u"]),
        (["mysql", "-ppw", "db"], ["mysql", "-p***", "db"]),
        (["sshpass", "-p", "pw", "ssh"], ["sshpass", "-p", MASK, "ssh"]),
        ([], []),
    ],
)
def test_argv(argv: list[str], redacted: list[str]) -> None:
    assert Redactor().argv(argv) == redacted
    assert Redactor().argv(redacted) == redacted


def test_value() -> None:
    obj = {
        "lr": 0.1, "tokenizer": "gpt2", "max_tokens": 512, "api_key": "abc", "token": None, "password": 12345,
        "credentials": {"user": "me", "n": 1, "more": ["x", ("y", True)]},
        "nested": [{"apiKey": "abc"}, "postgres://u:pw@h/d"],
        "argv": ["--token", "abc"], 3: "x",
    }  # fmt: skip
    before = repr(obj)
    assert Redactor().value(obj) == {
        "lr": 0.1, "tokenizer": "gpt2", "max_tokens": 512, "api_key": MASK, "token": None, "password": MASK,
        "credentials": {"user": MASK, "n": 1, "more": [MASK, [MASK, True]]},
        "nested": [{"apiKey": MASK}, "postgres://u:***@h/d"],
        "argv": ["--token", MASK], 3: "x",
    }  # fmt: skip
    assert repr(obj) == before


def test_import_is_cheap() -> None:
    """Compute nodes import this without site-packages: no heavy module may come along."""
    code = (
        "import sys, re, binascii; sys.path.insert(0, sys.argv[1]); import hpctrack.text; before = set(sys.modules);"
        "import hpctrack.text.redact; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, Path(redact.__file__).parents[2]],
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) <= {
        "__future__", "hpctrack.text.redact", "hpctrack.text.secret_patterns", "hpctrack.text.secret_commands",
    }  # fmt: skip
