"""Where command lines hold secrets that have no name: a program, and the place of its password.

Used by `secret_patterns`. Pure, and standard library only.
"""

from __future__ import annotations

import re

# Where commands take a password without a name. Between a program and its option: the rest of its line.
COMMANDS = re.compile(r"""(?x)(?:(?<=\s)(?:--password-stdin|--with-token)[ ]*<<<[ ]*|\b(?:
          (?: curl|wget|https? )\b(?:[^\n]|\\\n){0,300}?\s
              (?:-[A-Za-z]{0,6}[uU]|-a|--user|--proxy-user|--auth)[ =]?(?P<user>["'])?[^\s:"'$]{0,99}:
        | (?: (?: (?:mysql|mariadb)[\w-]*|7z[arz]?|rar|unrar )\b(?:[^\n]|\\\n){0,300}?\s-h?p(?=\S)
            | sshpass[ ]+(?:-[a-z][ ]+)*-p[ ]*
            | (?: docker|podman|nerdctl|apptainer|singularity|helm|oras|skopeo|buildah|az|oc|cf|ibmcloud )\b
              (?:[^\n]|\\\n){0,99}?\slogin\b(?:[^\n]|\\\n){0,300}?\s-p[ =]?
            | (?: redis-cli|valkey-cli )\b[^\n]{0,300}?\s(?:-a|--pass)[ ]+
            | ldap[a-z]+\b(?:[^\n]|\\\n){0,300}?\s-w[ ]*
            | (?: zip|unzip|zipcloak|sqlcmd|mssql-cli|bcp|ipmitool|mosquitto_\w+ )\b[^\n]{0,300}?\s-P[ ]*
            | (?: mongo[a-z]*|cqlsh|rabbitmqadmin|ncftp\w*|influx|impala-shell|twine|rdesktop )\b
              [^\n]{0,300}?\s-p[ ]*
            | openssl\b[^\n]{0,300}?\s(?:-pass(?:in|out|word)?[ ]+["']?pass:|-k[ ]+)
            | ssh-keygen\b[^\n]{0,300}?\s-[NP][ ]+
            | (?: smbclient|rpcclient )\b[^\n]{0,300}?\s(?:-U|--user)[ =]*["']?[^\s%"']{1,99}%
            | lftp\b[^\n]{0,300}?\s-u[ ]*[^\s,"']{1,99},
            | htpasswd[ ]+-\w*b\w*[ ]+\S+[ ]+\S+[ ]+
            | mc(?:li)?[ ]+(?:alias|config[ ]host)[ ]+(?:set|add)[ ]+\S+[ ]+\S+[ ]+\S+[ ]+
            | kaggle[ ]+config[ ]+set\b(?=[^\n]{0,300}?\s(?:-n|--name)[ =]["']?key\b)
              [^\n]{0,99}?\s(?:-v|--value)[ =]+
            | (?: gh|nextflow|fly|flyctl )[ ]+secrets?[ ]+(?:set|put)\b
              [^\n]{0,300}?\s(?:-[bv]|--body|--value)[ =]+
            | nextflow[ ]+secrets[ ]+set[ ]+[A-Za-z]\w*[ ]+(?!-)
            | rclone[ ]+config[ ]+(?:create|update|password)\b[^\n]{0,300}?\spass(?:word)?2?[ =]
            | rclone[ ]+obscure[ ]+(?!-)
            | poetry[ ]+config[ ]+(?:--\S+[ ]+)*http-basic\.\S+[ ]+\S+[ ]+
            | rabbitmqctl\b[^\n]{0,99}?\s(?:add_user|change_password|authenticate_user)[ ]+\S+[ ]+
            | (?: keytool|jarsigner )\b[^\n]{0,300}?\s-(?:dest|src)?(?:store|key)pass[ ]+
            | (?: sqlplus|expdp|impdp|sqlldr )[ ]+(?:-\w+[ ]+)*[\w$#]+/(?=[^\s@/]+@)
            | [xw]?freerdp\d?\b[^\n]{0,300}?\s/p:
            | (?: ngrok|snyk|nuget )[ ]+(?:config[ ]+)?(?:add-)?(?:authtoken|auth|setapikey)[ ]+(?!-)
            | (?: gitlab-runner[ ]+register\b[^\n]{0,300}?\s-[rt] | nuget[ ]+push\b[^\n]{0,300}?\s-k )[ ]+
            | vault[ ]+(?:kv[ ]+)?(?:write|put)\b[^\n]{0,300}?\svalue=
            | iinit[ ]+(?!-)
            | (?: machine|login|account )\s+[^\s;,]+\s+password\s+
            | (?: kinit|sudo[ ][^\n<|]{0,99}-S )[^\n<|]{0,99}<<<[ ]*
          )))(?P<quote>["'])?""")
PIPED = re.compile(r"""(?x)\b(?:echo|printf)[ ]+(?:-\w+[ ]+|["']?%[sb](?:\\n)?["']?[ ]+)*
        ["']?(?P<secret>[^\s"'|]+)["']?[ ]*\|[ ]*(?:[^\n|;]{0,200}?\s)?
        (?:--password-stdin|--with-token|kinit|iinit|vncpasswd|chpasswd|sudo[ ]+-\w*S|--stdin
        |--passphrase-fd|-pass)\b""")
LITERALS = re.compile(r"\bcreate[ ]+secret\b[^\n]{0,1000}")
LITERAL = re.compile(r"""--from-literal[ =]["']?[\w.-]{1,99}=(?P<secret>[^\s"']+)""")
SETTING = re.compile(r"""(?x)\b(?:git|npm|yarn|pnpm|pip|aws|gcloud|oci|az|poetry|dvc|conda|hf
        |rclone|s3cmd|wandb|mlflow|nextflow|tower)[ ][^\n]{0,60}?
        \b(?:config|configure|remote|set)[ ](?P<words>[^\n]{0,300})""")
LOGIN = re.compile(r"\blogin\b[^\n]{0,400}")
#: Options that mean a password, a key or a token to many programs, and to many others something else.
SHORT_OPTION = re.compile(r"""(?x)(?<=\s)-(?:[pPkKta](?:[ ]+|=)|p)["']?
        (?P<secret>[A-Za-z0-9+~=]{16,})(?![\w./:-])""")
