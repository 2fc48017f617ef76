#!/bin/sh
# Install the packages listed in $1 with apt, if this is Debian and we may; say clearly what is missing otherwise.
set -eu
missing=$(while read -r name; do dpkg -s "$name" >/dev/null 2>&1 || printf '%s ' "$name"; done <"$1")
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "Not installed (needs Debian's apt and root): $missing- the tests that need them will be skipped." >&2
    exit 1
fi
apt-get update -q
# shellcheck disable=SC2086  # a list of names
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
