"""Texts with secrets of made-up but well-shaped values, by where they stand; and lines of jobs without any.

Values are drawn when they are needed, and put together of parts: no scanner of this repository may find one.
Shapes of tokens are those of gitleaks' config/gitleaks.toml and of the providers' own pages.
"""

# ruff: noqa: E501 - tables are read row by row

from __future__ import annotations

import base64
import json
import random
import string
from typing import NamedTuple


class Case(NamedTuple):
    """A text, and what of it may not show."""

    kind: str
    text: str
    secret: str


_RANDOM = random.Random(7)
_HEX, _LOWER, _UPPER = (
    "0123456789abcdef",
    string.ascii_lowercase + string.digits,
    string.ascii_uppercase + string.digits,
)
_ALNUM = string.ascii_letters + string.digits
_WORD = _ALNUM + "_-"


def draw(count: int, of: str = _ALNUM) -> str:
    """Return so many characters, with a digit, a small and a capital letter where there may be."""
    while True:
        drawn = "".join(_RANDOM.choices(of, k=count))
        if all(
            any(c in some for c in drawn)
            for some in (string.digits, string.ascii_letters)
            if set(some) & set(of)
        ):
            return drawn


def _uuid() -> str:
    return "-".join(draw(count, _HEX) for count in (8, 4, 4, 4, 12))


def tokens() -> dict[str, str]:
    """Return a token of each provider, recognised wherever it stands."""
    jwt = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256"}, {"sub": "me"})
    )
    return {
        "github": "ghp" + "_" + draw(36), "github oauth": "gho" + "_" + draw(36), "github app": "ghs" + "_" + draw(36),
        "github fine": "github" + "_pat_" + draw(22) + "_" + draw(59), "gitlab": "glpat" + "-" + draw(20, _WORD), "gitlab runner": "glrt" + "-" + draw(20, _WORD),
        "gitlab deploy": "gldt" + "-" + draw(20, _WORD), "hugging face": "hf" + "_" + draw(34), "groq": "gsk" + "_" + draw(52), "replicate": "r8" + "_" + draw(37),
        "openai": "sk" + "-" + draw(20) + "T3Blbk" + "FJ" + draw(20), "openai project": "sk" + "-proj-" + draw(74, _WORD) + "T3Blbk" + "FJ" + draw(74, _WORD),
        "anthropic": "sk" + "-ant-api03-" + draw(93, _WORD) + "AA", "openrouter": "sk" + "-or-v1-" + draw(64, _HEX), "perplexity": "pplx" + "-" + draw(48),
        "xai": "xai" + "-" + draw(80), "nvidia": "nvapi" + "-" + draw(64, _WORD), "langsmith": "lsv2" + "_pt_" + draw(32, _HEX) + "_" + draw(10, _HEX),
        "pinecone": "pcsk" + "_" + draw(50), "tavily": "tvly" + "-dev-" + draw(32), "fireworks": "fw" + "_" + draw(24), "jina": "jina" + "_" + draw(60),
        "aws": "AK" + "IA" + draw(16, string.ascii_uppercase + "234567"), "aws temporary": "AS" + "IA" + draw(16, string.ascii_uppercase + "234567"),
        "aws bedrock": "AB" + "SK" + draw(120), "alibaba": "LT" + "AI" + draw(20), "google": "AI" + "za" + draw(35, _WORD), "google oauth": "ya" + "29." + draw(60, _WORD),
        "google client": "GOC" + "SPX-" + draw(28, _WORD), "azure client": draw(3) + "8Q~" + draw(34), "slack bot": "xo" + "xb-" + draw(12, string.digits) + "-" + draw(12, string.digits) + "-" + draw(24),
        "slack user": "xo" + "xp-" + draw(12, string.digits) + "-" + draw(12, string.digits) + "-" + draw(12, string.digits) + "-" + draw(32, _HEX),
        "slack app": "xa" + "pp-1-A" + draw(10, _UPPER) + "-" + draw(13, string.digits) + "-" + draw(64, _HEX), "telegram": draw(9, "123456789") + ":A" + "A" + draw(33, _WORD),
        "discord bot": "M" + draw(23) + "." + draw(6) + "." + draw(27, _WORD), "npm": "npm" + "_" + draw(36), "pypi": "py" + "pi-AgEIcHlwaS5vcmc" + draw(70, _WORD),
        "rubygems": "rubygems" + "_" + draw(48, _HEX), "docker": "dckr" + "_pat_" + draw(27, _WORD), "sendgrid": "SG" + "." + draw(22, _WORD) + "." + draw(43, _WORD),
        "brevo": "xkey" + "sib-" + draw(64, _HEX) + "-" + draw(16), "mailgun": "key" + "-" + draw(32, _HEX), "twilio": "S" + "K" + draw(32, _HEX), "new relic": "NR" + "AK-" + draw(27, _UPPER),
        "databricks": "da" + "pi" + draw(32, _HEX), "digitalocean": "dop" + "_v1_" + draw(64, _HEX), "doppler": "dp" + ".pt." + draw(43), "dynatrace": "dt0" + "c01." + draw(24, _UPPER) + "." + draw(64, _UPPER),
        "vault": "hvs" + "." + draw(95, _WORD), "terraform": draw(14) + ".atlas" + "v1." + draw(67, _WORD), "atlassian": "ATA" + "TT3" + draw(180, _WORD), "linear": "lin" + "_api_" + draw(40),
        "notion": "ntn" + "_" + draw(11, string.digits) + draw(35), "postman": "PM" + "AK-" + draw(24, _HEX) + "-" + draw(34, _HEX), "pulumi": "pul" + "-" + draw(40, _HEX),
        "shopify": "shp" + "at_" + draw(32, _HEX), "stripe": "sk" + "_live_" + draw(24), "square": "sq0" + "atp-" + draw(22, _WORD), "easypost": "EZ" + "AK" + draw(54),
        "sentry": "sntry" + "u_" + draw(64, _HEX), "grafana": "gl" + "sa_" + draw(32) + "_" + draw(8, _HEX), "tailscale": "ts" + "key-auth-" + draw(11) + "-" + draw(32), "planetscale": "pscale" + "_tkn_" + draw(43, _WORD),
        "typeform": "tf" + "p_" + draw(59, _WORD), "fly": "fo1" + "_" + draw(43, _WORD), "heroku": "HR" + "KU-AA" + draw(58, _WORD), "prefect": "pn" + "u_" + draw(36),
        "artifactory": "AK" + "Cp" + draw(69), "openshift": "sha" + "256~" + draw(43, _WORD), "facebook": "EA" + "AM" + draw(110), "1password": "A3" + "-" + "-".join(draw(n, _UPPER) for n in (6, 11, 5, 5, 5)),
        "age": "AGE-SECRET" + "-KEY-1" + draw(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"), "wandb": "local" + "-" + draw(40, _HEX), "neptune": "eyJhcGlfYWRk" + "cmVzcyI6" + draw(60), "jwt": jwt + "." + draw(43, _WORD),
    }  # fmt: skip


def _positions() -> list[Case]:
    cases = []
    for provider, token in tokens().items():
        cases += [Case(f"token of {provider}", text, token) for text in (
            f"run it with {token} please", f'client = Client("{token}")', f"curl https://api.example.org/{token}", f"error: invalid credentials ({token})")]  # fmt: skip
    return cases


def positives() -> list[Case]:
    """Return texts with one secret each."""
    values: set[str] = set()

    def new(count: int, of: str = _ALNUM) -> str:
        value = draw(count, of)
        values.add(value)
        return value

    word, hexa, code, pair = (
        "Tr0ub4dor&3",
        new(40, _HEX),
        new(32, _HEX),
        base64.b64encode(b"me:" + new(9).encode()).decode(),
    )
    aws, slow, plain = new(40, _ALNUM + "/+"), "correct-horse-9", "zebra7Moon!"
    cases = {
        "shell": [
            f"export HF_TOKEN={hexa}", f"HF_TOKEN='{hexa}' srun python x.py", f'export DB_PASSWORD="{slow}"', f"TOKEN=$'{slow}'", f'TOKEN=$"{slow}"', f"TOKEN=$(echo {hexa})",
            f"TOKEN=$(echo '{slow}')", f'TOKEN="$(echo {slow})"', f"TOKEN=`echo {slow}`", f"TOKEN=$(printf '%s' {slow})", f"TOKEN=$(base64 -d <<< {pair})", f"read -r TOKEN <<< {slow}", f"declare -x API_KEY={slow}",
            f"typeset -x API_KEY='{slow}'", f"local password={slow}", f"readonly SECRET={slow}", f"setenv API_TOKEN {slow}", f"set -gx API_TOKEN {slow}", f"+ export API_TOKEN={slow}", f"++ DB_PASS={slow}",
            f"export KAGGLE_KEY={code}", f"export WANDB_API_KEY=\\\n{hexa}", f"python x.py --token \\\n    {slow} --lr 3", f"env API_KEY={slow} python x.py", f"TOKEN={slow} && run", f"TOKEN={slow};run", f"export A=1 SECRET_KEY={slow} B=2",
            f"PASSWORD=${{PASSWORD:-{slow}}}", f": ${{TOKEN:={slow}}}", f"export PGPASSWORD=$'{slow}\\n'", f"#SBATCH --export=ALL,API_KEY={slow}", f"PASSWORD='first line\n{slow}'", f'SECRET="a\n{slow}\nb"', "PASSWORD=84736251", "export DB_PASS='19283746'",
            f"MYSQL_PWD={slow} mysqldump db", f"API_TOKEN+={slow}", f"ENV API_KEY {slow}", f"-e POSTGRES_PASSWORD={slow}", f"--env API_KEY={slow}", f"--from-literal=password={slow}",
        ],
        "commands": [
            f"wandb login {hexa}", f"wandb login --relogin {hexa}", f"wandb login --host https://w.example.org {hexa}", f"swanlab login -k {new(21)}", f"mysql -p{slow} db", f"mysqldump -u me -p'{slow}' db", f"mysql --password={slow} db",
            f"mysqladmin -uroot -p{plain} shutdown", f"curl -u me:{slow} https://x.org", f"curl -ume:{slow} https://x.org", f"curl --user 'me:{slow} x' https://x.org", f'curl -H "Authorization: Bearer {slow}" https://x.org', f"curl -H 'X-Api-Key: {slow}' https://x.org",
            f'curl -H "Authorization: token {slow}" https://x.org', f"curl -H 'PRIVATE-TOKEN: {slow}' https://x.org", f"curl -s \\\n  -u me:{slow} \\\n  https://x.org", f"curl --oauth2-bearer {slow} https://x.org", f"wget --user me --password {slow} https://x.org", f"wget --http-password={slow} u",
            f"http -a me:{slow} x.org", f"sshpass -p {slow} ssh me@x", f"sshpass -p'{slow}' ssh me@x", f"redis-cli -h x -a {slow} ping", f"ldapsearch -x -D cn=me -w {slow} -b dc=x", f"openssl enc -aes-256-cbc -pass pass:{slow} -in a", f"openssl rsa -passin pass:{slow} -in a",
            f"openssl enc -k {slow} -in a", f"7z a -p{slow} a.7z b", f"7za x -p'{slow}' a.7z", f"zip -r -P {slow} a.zip b", f"unzip -P {slow} a.zip", f"unrar x -p{slow} a.rar", f"docker login -u me -p {slow} r.example.org", f"echo {slow} | docker login -u me --password-stdin",
            f"echo '{slow}' | docker login --username me --password-stdin r.example.org", f"singularity remote login -u me -p {slow} docker://x", f"podman login -u me --password {slow} x", f"az login --service-principal -u x -p {slow} --tenant t", f"helm registry login -u me -p {slow} x",
            f"mongosh -u me -p {slow} db", f"sqlcmd -S x -U me -P {slow}", f"smbclient //x/y -U me%{slow}", f"lftp -u me,{slow} x", f"ssh-keygen -t rsa -N {slow} -f k", f"echo {slow} | kinit me", f"kinit me <<< {slow}", f"echo '{slow}' | sudo -S ls", f"gh auth login --with-token <<< {slow}",
            f"htpasswd -bc f me {slow}", f"mosquitto_pub -u me -P {slow} -t x", f"ipmitool -H x -U me -P {slow} power status", f"mc alias set x https://m.example.org ACCESS {slow}", f"aws configure set aws_secret_access_key {aws}", f"git config --global gitlab.token {slow}",
            f"npm config set //r.example.org/:_authToken {slow}", f"poetry config pypi-token.pypi {slow}", f"dvc remote modify r password {slow}", f"rclone config create r webdav pass={code}", f"gpg --batch --passphrase {slow} -d a", f"svn co --username me --password {slow} u",
            f"ray start --head --redis-password='{slow}'", f"jupyter lab --NotebookApp.token={slow}", f"jupyter lab --ServerApp.password='{slow}'", f"huggingface-cli login --token {slow}", f"mount -t cifs //x/y /mnt -o username=me,password={slow}", f"kubectl config set-credentials me --token={slow}",
            f"vault login {new(30)}", f"psql 'host=x user=me password={slow}'", f"psql postgresql://me:{slow}@x/db", f"ncftpput -u me -p {slow} x /y z", f"cqlsh -u me -p {slow} x", f"influx -username me -password {slow}", f"kafka --sasl-password {slow}",
        ],
        "options in pairs": [
            f"kaggle config set -n key -v {slow}", f"kaggle config set --name key --value {code}", f"kaggle config set -v {code} -n key", f"gh secret set NAME -b {slow}", f"gh secret set NAME --body '{slow}'", f"nextflow secrets set NAME {slow}", f"nextflow secrets put -n NAME -v {slow}",
            f"aws configure set aws_secret_access_key {slow}", f"aws configure set p.aws_session_token {slow}", f"git config --global github.token {slow}", f"git config user.password {slow}", f"npm config set //registry.example.org/:_authToken {slow}", f"npm config set //r.example.org/:_authToken={slow}",
            f"pip config set global.password {slow}", f"gcloud config set auth/access_token {slow}", f"huggingface-cli login --token {slow}", f"comet login --api-key {slow}", f"neptune sync --api-token {slow}", f"dvc remote modify --local myremote password {slow}", f"mc alias set NAME https://m.example.org ACCESS {slow}",
            f"mcli alias set NAME https://m.example.org ACCESS {slow}", f"rclone config create r ftp host h user me pass {slow}", f"rclone config update r pass={slow}", f"rclone obscure {slow}", f"poetry config http-basic.foo me {slow}", f"poetry config pypi-token.pypi {slow}", f"kubectl create secret generic s --from-literal=a={slow}",
            f"kubectl create secret generic s --from-literal=a=b1 --from-literal c={slow}", f"vault write secret/x value={slow}", f"ngrok config add-authtoken {slow}", f"snyk auth {slow}", f"nuget setapikey {slow}", f"dotnet nuget push p -k {slow}", f"gitlab-runner register -r {slow}", f"rabbitmqctl add_user me {slow}",
            f"curl -sSu me:{slow} https://x.org", f"smbclient -U 'me%{slow}' //h/s", f"smbclient //h/s -U me%{slow}", f"mongosh -u me -p {slow}", f"lftp -e x -u me,{slow} h", f"gpg --batch --passphrase {slow} -c f", f"az login --service-principal -u app -p {slow} --tenant t", f"keytool -list -storepass {slow}",
            f"keytool -genkey -keypass {slow}", f"sqlplus me/{slow}@db", f"xfreerdp /u:me /p:{slow} /v:h", f"twine upload -u me -p {slow} d", f"rdesktop -u me -p {slow} h", f"echo {slow} | iinit", f"iinit {slow}", f"echo {slow} | vncpasswd -f",
        ],
        "sentences": [
            f"password is {slow}", f"the password is {plain}", f"Password is: {word}", f"my password is '{slow}'", f"Your new password is {slow}.", f"passphrase is {slow}", f"the token is {new(24)}", f"API key is {slow}", f"user: me, password is {word}, host: h", f"The secret key was {slow}",
            f"password for me is {slow}", f"the password of the database is now {slow}; tell nobody", f"pw is {slow}", f"pwd is `{slow}`", f"the access key will be {slow}", f"token is {hexa}", f"# the password is {plain}",
        ],
        "code": [
            f'wandb.login(key="{hexa}")', f"wandb.login(key='{hexa}', relogin=True)", f'login("{hexa}")', f'os.environ["API_KEY"] = "{slow}"', f"os.environ['API_KEY']='{slow}'", f'os.environ.setdefault("API_KEY", "{slow}")', f'os.getenv("API_KEY", "{slow}")', f'os.putenv("API_KEY", "{slow}")',
            f'openai.api_key = "{slow}"', f'client = Client(api_key="{slow}")', f'password: str = "{slow}"', f'connect(host="x", password="{slow}")', f'Sys.setenv(API_KEY = "{slow}")', f'ENV["API_KEY"] = "{slow}"', f"$ENV{{API_KEY}} = '{slow}';", f"setenv('API_KEY', '{slow}')", f"process.env.API_KEY = '{slow}';",
            f'const apiKey = "{slow}";', f'api_key = """{slow}"""', f'api_key = f"{slow}"', f'api_key = ("{slow}")', f'{{"db": {{"password": "{slow}"}}}}', f"dict(token='{slow}')", f'password => "{slow}",', f'if token != "{slow}": exit(1)', f'"--api-key", "{slow}"', f'"--api-key",\n    "{slow}",',
            f'headers = {{"Authorization": "Bearer {slow}"}}', f'headers = {{"X-API-Key": "{slow}"}}', f'auth_token = b"{slow}"', f'api = KaggleApi(); key = "{code}"', f'neptune.init(api_token="{slow}")', f'Experiment(api_key="{slow}")', f'string password = @"{slow}";', f'password="{slow}" # ours',
        ],
        "files": [
            json.dumps({"auths": {"r.example.org": {"auth": pair}}}), json.dumps({"auth": pair}, indent=2), json.dumps({"username": "me", "key": code}), json.dumps({"db": {"password": slow}}), json.dumps(json.dumps({"token": slow})), f"password: {slow}", f"password: '{slow}'", f'  api_key: "{slow}"',
            f"password: |\n  {slow}\nuser: me", f"password: >-\n    {slow}", f"password:\n  {slow}", f"- name: DB_PASSWORD\n  value: {slow}", f'{{"name": "DB_PASSWORD", "value": "{slow}"}}', f"[db]\npassword = {slow}\n", f"password={slow}", f"api-key = '{slow}'", f"db.password={slow}", f"spring.datasource.password: {slow}",
            f"<password>{slow}</password>", f'<add key="Password" value="{slow}"/>', f"machine x.org login me password {slow}", f"machine x.org\nlogin me\npassword {slow}", f"cat > ~/.netrc <<EOF\nmachine x.org login me password {slow}\nEOF", f"db.example.org:5432:mydb:me:{slow}", f"*:*:*:me:{slow}", f"https://me:{slow}@github.com",
            f"aws_secret_access_key = {aws}", f"[default]\naws_access_key_id=X\naws_secret_access_key={aws}", f"//r.example.org/:_authToken={slow}", f"_auth={pair}", f"index-url = https://me:{slow}@pypi.example.org/simple", f"token = \"{slow}\"", f"data:\n  password: {base64.b64encode(slow.encode()).decode()}",
            f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={new(86)}==;EndpointSuffix=core.windows.net", f"Server=x;Database=y;User Id=me;Password={slow};", f"Server=x;UID=sa;PWD={slow};", f"Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey={new(43)}=", f"client_secret: {slow}",
        ],
        "urls": [
            "https://hooks.slack.com/services/" + f"T{new(8, _UPPER)}/B{new(8, _UPPER)}/{new(24)}", "https://hooks.slack.com/workflows/" + f"T{new(8, _UPPER)}/A{new(8, _UPPER)}/{new(18)}/{new(24)}", "https://discord.com/api/webhooks/" + f"{new(18, string.digits)}/{new(68, _WORD)}",
            "https://discordapp.com/api/v10/webhooks/" + f"{new(18, string.digits)}/{new(68, _WORD)}", "https://x.webhook.office.com/webhookb2/" + f"{_uuid()}@{_uuid()}/IncomingWebhook/{code}/{_uuid()}", "https://api.telegram.org/bot" + f"{new(9, '123456789')}:AA{new(33, _WORD)}/sendMessage",
            "https://hooks.zapier.com/hooks/catch/" + f"{new(7, string.digits)}/{new(7, _LOWER)}/", "https://maker.ifttt.com/trigger/done/with/key/" + new(22), f"https://x.org/a?api_key={slow}&b=2", f"https://x.org/a?b=2&access_token={slow}", f"https://x.org/a?key={new(39)}", f"https://b.s3.amazonaws.com/x?X-Amz-Credential={new(20)}%2F1&x=1",
            f"https://b.s3.amazonaws.com/x?x=1&X-Amz-Signature={new(64, _HEX)}", f"https://b.s3.amazonaws.com/x?X-Amz-Security-Token={new(100)}", f"https://x.blob.core.windows.net/c?sv=2022&sig={new(43)}%3D", f"https://storage.googleapis.com/b/x?X-Goog-Signature={new(128, _HEX)}", f"https://me:{slow}@git.example.org/a.git", f"https://{code}@git.example.org/a.git",
            f"https://oauth2:{slow}@git.example.org/a.git", f"redis://:{slow}@cache:6379/0", f"mongodb+srv://me:{slow}@x.mongodb.net", f"amqp://me:{slow}@mq:5672", f"ftp://me:{slow}@ftp.example.org/a", f"postgresql+psycopg://me:{slow}@db/x", f"https://{code}@o0.ingest.sentry.io/1", f"mysql://me:{word}@db/x",
        ],
        "headers and keys": [
            f"Authorization: Basic {pair}", f"> Authorization: Bearer {slow}", f"Proxy-Authorization: Basic {pair}", f"sent Basic {pair} to x", f"got 401 for Bearer {new(32)}", f"Cookie: session={new(32)}", f"X-Auth-Token: {slow}", f"x-amz-security-token: {new(80)}", f"Set-Cookie: sessionid={new(32)}; Path=/",
        ],
    }  # fmt: skip
    corpus = _positions()
    values |= {
        word,
        hexa,
        code,
        pair,
        aws,
        slow,
        plain,
        "84736251",
        "19283746",
        base64.b64encode(slow.encode()).decode(),
    }
    for kind, texts in cases.items():
        for text in texts:
            corpus.append(Case(kind, text, max((value for value in values if value in text), key=len)))
    key = [draw(64, _ALNUM + "+/") for _ in range(4)]
    for label in ("RSA ", "OPENSSH ", "EC ", "", "ENCRYPTED ", "PGP "):
        end = "PRIVATE KEY" + (" BLOCK" if label == "PGP " else "")
        pem = "\n".join([f"-----BEGIN {label}{end}-----", *key, f"-----END {label}{end}-----"])
        corpus += [Case("private keys", text, key[2]) for text in (pem, f"cat > k <<'EOF'\n{pem}\nEOF", json.dumps({"k": pem}), pem[:200], pem[40:])]  # fmt: skip
    return corpus


NEGATIVES = """
mkdir -p runs/exp12b/v3c4d5e6
cp -p ckpt1a2b3c4d5e6f7g8.pt /scratch
pytest -k test_a1_b2_c3_d4_e5
docker build -t img1a2b3c4d5e6f7g8:latest .
python train.py --pw 16 --ph 16
ls .git/hooks/pre-commit /srv/hooks/on-exit2
module load gcc/12.2.0 openmpi/4.1.5 cuda/12.1
module load python/3.11.4-gcc-12
module use /opt/modulefiles/key
source ~/miniconda3/etc/profile.d/conda.sh
conda activate torch-2.1-cu121
conda create -n key-env python=3.11
#SBATCH --job-name=tokenize-c4
#SBATCH --mem=64G --cpus-per-task=8 --gres=gpu:a100:4
#SBATCH --output=logs/%x-%j.out
#SBATCH --account=proj123 --partition=gpu --qos=normal
#SBATCH --mail-user=alice@example.org --mail-type=END,FAIL
#SBATCH --export=ALL,EPOCHS=10,MAX_TOKENS=4096
srun --mem=4G --ntasks=8 --cpu-bind=cores python train.py --lr 3e-4
srun --mpi=pmix_v3 -n 64 ./solver input.key
mpirun -np 16 -x LD_LIBRARY_PATH ./a.out
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export TOKENIZERS_PARALLELISM=false
export MAX_TOKENS=4096
export NUM_TOKENS=128 TOKEN_LIMIT=8k
export KEYBOARD=us
export LANG=en_US.UTF-8 LC_ALL=C
export SSH_AUTH_SOCK=/tmp/ssh-XXXXabcd/agent.1234
export SSH_KEY=~/.ssh/id_ed25519
export XAUTHORITY=/home/alice/.Xauthority
export PASSWORD_FILE=/run/secrets/db TOKEN_PATH=$HOME/.token
export GOOGLE_APPLICATION_CREDENTIALS=$HOME/gcp/key.json
export AWS_PROFILE=default AWS_DEFAULT_REGION=eu-west-1
export CUDA_VISIBLE_DEVICES=0,1,2,3 NCCL_DEBUG=INFO
export HF_HOME=/scratch/alice/hf HF_HUB_OFFLINE=1 HF_DATASETS_CACHE=/scratch/hf
export WANDB_MODE=offline WANDB_PROJECT=keypoints WANDB_DIR=/scratch/wandb
export PYTHONPATH=$PWD/src:$PYTHONPATH PATH=$HOME/.local/bin:$PATH
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1) MASTER_PORT=29500
export HF_TOKEN=$(cat ~/.cache/huggingface/token)
export WANDB_API_KEY=$(< ~/.wandb_key)
export API_KEY=${API_KEY:?not set}
TOKEN=$(aws ecr get-login-password --region eu-west-1)
PASS=1 FAIL=0 TEST_PASS=true
GIT_COMMIT=4f2a9c81b7d3e5f60718293a4b5c6d7e8f901234
commit 4f2a9c81b7d3e5f60718293a4b5c6d7e8f901234
git checkout 4f2a9c81b7d3e5f60718293a4b5c6d7e8f901234
pip install git+https://github.com/org/repo.git@4f2a9c81b7d3e5f60718293a4b5c6d7e8f901234
pip install torch==2.1.0+cu121 --index-url https://download.pytorch.org/whl/cu121
sha256sum: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  data.tar
docker pull ubuntu@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
RUN_ID=123e4567-e89b-12d3-a456-426614174000
run 123e4567-e89b-12d3-a456-426614174000 started
SLURM_JOB_ID=123456 SLURM_SUBMIT_DIR=/home/alice/proj SLURM_JOB_NODELIST=n[001-004]
SLURM_JOB_ACCOUNT=proj123 SLURM_JOB_UID=1000 SLURM_CPU_BIND_LIST=0xFF,0xFF00
SLURM_CONF=/etc/slurm/slurm.conf SLURM_TOPOLOGY_ADDR=switch1.node12
SLURM_STEP_LAUNCHER_PORT=38471 SLURM_SRUN_COMM_HOST=10.0.0.12
LS_COLORS=rs=0:di=01;34:ln=01;36:mh=00:pi=40;33
TERM=xterm-256color SHLVL=2 _=/usr/bin/env
LOADEDMODULES=gcc/12.2.0:openmpi/4.1.5 _LMFILES_=/opt/modules/gcc/12.2.0.lua
BASH_FUNC_module%%=() {  eval `/usr/bin/modulecmd bash $*` }
DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus
XDG_SESSION_ID=42 XDG_RUNTIME_DIR=/run/user/1000
SSH_CONNECTION=10.1.2.3 51234 10.1.2.4 22
python train.py --num-tokens 128 --max-tokens 512 --pad-token '[PAD]'
python train.py --tokenizer meta-llama/Llama-2-7b-hf --token-dim 768
python train.py --key-dim 64 --num-keys 16 --query-key-norm
python train.py --key resnet50-imagenet-v2 --sort-key loss
python train.py --model Qwen/Qwen2.5-7B-Instruct --dtype bfloat16
python train.py --model llama-3-8b-instruct-q4_k_m --ckpt step_12000_loss_0.31.pt
python train.py model.hidden=512 optimizer.lr=1e-4 data.key=image
python train.py --author alice --authors "alice, bob"
python train.py --secret-santa=false --passes 3 --bypass
python train.py --password-file /run/secrets/db --token-file token.txt
python train.py --login-node login01 --host login1.cluster.example
python train.py --seed 12345678 --run-name 2024-01-15T10-30-00
python train.py --no-password --use-auth-token model --with-token-embeddings
python -m torch.distributed.run --rdzv_id=$SLURM_JOB_ID --rdzv_backend=c10d --rdzv_endpoint=$HEAD:29400
python eval.py --checkpoint runs/8f3a2b1c/epoch_3.ckpt --split train
python predict.py --input s3://bucket/key/part-00001.parquet
curl -fsSL https://example.org/install.sh | bash
curl -u $USER:$PASSWORD https://x.org
curl -H "Authorization: Bearer $TOKEN" https://x.org
curl -H "Content-Type: application/json" -X POST https://x.org/api/v1/runs
wget -q https://zenodo.org/record/1234567/files/data.tar.gz?download=1
wget --password "$PW" -O weights.bin https://x.org/models/keys/weights.bin
rsync -avz --password-file=/home/alice/.rsync alice@host:/data/ .
rsync -ap key/ alice@host:/backup/key/
scp -i ~/.ssh/id_rsa -P 2222 a.txt alice@host:/tmp/
ssh -p 2222 alice@login.example.org
ssh-keygen -t ed25519 -f key
mysql -u alice -p db
mysql --defaults-file=~/.my.cnf -e 'select 1'
psql -h db -U alice -d mydb -W
redis-cli -h cache -p 6379 ping
docker run -p 8080:80 -u 1000:1000 image:latest
docker login --username me --password-stdin r.example.org < ~/pw
zip -r -q out.zip results/
7z x archive.7z -oout
openssl enc -pass env:PW -in a -out b
openssl rand -hex 16
az login --identity
gcloud auth login --no-launch-browser
wandb login
wandb login --relogin
wandb sync wandb/offline-run-20240115_103000-abc123de
huggingface-cli download meta-llama/Llama-2-7b-hf --local-dir /scratch/llama
Last login: Mon Jan 15 10:30:00 2024 from 10.1.2.3
bash --login -c 'module list'
#!/bin/bash -l
the login node is login02.cluster.example.org
import keyword; from getpass import getpass
token = tokenizer.encode(text)
tokens = tokenizer(text, return_tensors="pt")
for token in tokens: print(token)
key = jax.random.PRNGKey(42)
key, subkey = jax.random.split(key)
keys = sorted(d.keys(), key=lambda k: d[k])
df.sort_values(by="key", key=str.lower)
password = getpass.getpass("Password: ")
api_key = os.environ["OPENAI_API_KEY"]
secret = client.get_secret("name")
self.key = nn.Linear(dim, dim, bias=False)
self.key_proj = nn.Linear(768, 768)
attention_mask = tokens.ne(pad_token_id)
public_key = load(open("key.pub"))
print(f"token count: {n}")
logger.info("authenticated as %s", user)
raise ValueError("password must not be empty")
assert token is not None, "no token"
d = {"key": "value", "token_type": "bearer", "max_tokens": 512}
{"key": "loss", "values": [1, 2, 3]}
{"pass": true, "fail": 0, "total_tokens": 12}
{"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>"}
{"author": "alice", "authority": "x"}
tokenizer: meta-llama/Llama-2-7b-hf
max_tokens: 512
monkey: banana
keyboard: us
secret_name: my-db
password_policy: strong
key: value
sort_key: step
partition_key: user_id
PWD=/home/alice OLDPWD=/home/alice/src
cd $PWD && ls keys/ && cat key.txt
cp ~/keys/id_rsa.pub authorized_keys
tar xzf secrets-of-the-sea-v2.tar.gz
echo "password is read from the file"
echo "see docs/token.md for tokens"
echo $TOKEN | docker login --password-stdin
echo done | tee log.txt
# the token budget is 4096
# passes: forward_pass, backward_pass
# KEY=value pairs, one a line
Epoch 3: loss=0.312 acc=0.91 tokens/s=12345.6 key_norm=0.3
step=100 loss=0.25 token_acc=0.8 passes=3
[rank0]: Traceback (most recent call last):
  File "/home/alice/token/train.py", line 12, in <module>
RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB
KeyError: 'key'
slurmstepd: error: *** JOB 123456 ON n001 CANCELLED AT 2024-01-15T10:30:00 ***
urn:uuid:123e4567-e89b-12d3-a456-426614174000
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq0 alice@host
-----BEGIN CERTIFICATE-----
data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA
postgresql://db.example.org:5432/mydb?sslmode=require
https://alice@github.com/org/repo.git
git@github.com:org/repo.git
http://localhost:8888/tree
amqp://guest@mq/
mail alice@example.org; 12:30@home
image ubuntu:22.04@sha256:0123456789abcdef
n001:0:0 n002:1:0
ts=2024-01-15T10:30:00Z level=info msg="token bucket full"
password is required
the password is wrong
password is needed.
Password is case-sensitive and is at least 8 characters
the password is in ~/.pgpass
password is 256-bit
password is 12characters
the password is sha256
password is md5-hashed
password is bcrypt
your password is expired since 2024-01-15
password is not set
the token is expired
token is invalid (401)
the next token is Hello2World
the pad token is 50256
special token is <|endoftext|>
the first token is <0x0A>
token is position_ids_2
API key is missing
API key is $API_KEY
the API key is None
the secret key is 32 bytes long
secret is unknown
the access key is optional
password is argon2id-hashed
password is v2-only
the password is 2x-hashed
password was changed
passwords are hashed by argon2
pass is 3
pwd is /home/me/exp12b
pwd is ~/runs/a1b2c3
kaggle config set -n path -v /scratch/data1
kaggle config set -n competition -v titanic2024
kaggle config view
gh secret list
gh secret set --help
gh pr create -b main-v2
git config --global user.name alice2
git config core.autocrlf input1
git config set -n key1
npm config set registry https://registry.example.org/
pip config set global.timeout 60
pip config set global.index-url https://index.example.org/simple
gcloud config set project my-project-123
gcloud config set compute/zone us-central1-a
aws configure set region eu-central-1
aws configure set output json1
dvc remote modify myremote url s3://bucket1/path
mc alias list
mc ls minio1/bucket2
mc cp a1 minio1/b
rclone config create r s3 provider AWS region eu1
rclone copy r1:bucket/path2 /scratch
rclone config show r1
redis-cli -h node17 -p 6379 ping
mongosh --port 27017
mongosh node1
curl -sSfLo out1.tgz https://x.org/a
curl -o u1 -fsSL https://x.org:8443/a
curl -Lu https://x.org
sshpass -e ssh node1
sshpass -f pw1.txt ssh node1
smbclient -L node1 -N
mysql -h node1 -P 3306 db1
mysql -p db1
lftp -e 'mirror a1' sftp://node1
openssl enc -aes-256-cbc -pass file:k1
openssl rsa -passin env:PW1
gpg --verify a1.sig
gpg --passphrase-fd 0 a1
az login --identity
docker run -p 8888:8888 img1
docker login ghcr.io
jupyter lab -p 8888
mkdir -p dir1/dir2
./serve -p 8888
ssh -p 2222 node1
kubectl create configmap c --from-literal=mode=train1
kubectl get secret s1
vault read secret/x1
vault write auth/approle/role/r1 ttl=20m1
snyk test --all-projects
ngrok http 8080
nuget restore a1.sln
dotnet run -k 5
gitlab-runner run -n r1
keytool -list -keystore a1.jks
sqlplus /nolog
rabbitmqctl list_users
twine check dist/a1
iinit --help
vault kv get secret/a1
""".strip("\n").split("\n")
