#!/bin/sh
# Install what tests want beside Python: a PostgreSQL server, which is not started here, what network namespaces
# need, and a C compiler. Without root, or without apt, nothing: those tests are skipped. (The mini cluster installs
# its own.)
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
[ -d /usr/lib/postgresql ] && command -v iptables >/dev/null && command -v ip >/dev/null &&
    command -v cc >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -qq -y --no-install-recommends postgresql iptables iproute2 gcc libc6-dev >/dev/null
