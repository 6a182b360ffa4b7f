#!/bin/sh
# Fetches prometheus and promtool into .orchestr8/tools/prometheus, from the Debian mirror that this machine already uses. Touches
# nothing else, needs no root. The tests of metrics, dashboards and alerts use them; without them they say so and are skipped.
#
#   ORCHESTR8_TOOLS=DIR   fetch into DIR instead
set -eu

cd "$(dirname "$0")/.."
umask 022
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}/prometheus"

# Pinned by version and content. The version of the package may gain a suffix in the mirror; the content of what we take may not differ.
suite=trixie
version=2.53.3
promtool_sha256=b71477158ccb7d22cc803d22739aa27b12bbc99b8a32fd9237960b29933aeec1
prometheus_sha256=fe90274df34154770b9455ab036555b602dccbea709be398b640e45eeed48f53

# Exit code 69: it cannot be had here, and that is no fault of this repository.
unavailable() {
    echo "observe-tools: $1" >&2
    exit 69
}

# is_pinned DIR: whether both are there, and are what they should be.
is_pinned() {
    [ -x "$1/prometheus" ] && [ -x "$1/promtool" ] \
        && printf '%s  %s\n' "$promtool_sha256" "$1/promtool" "$prometheus_sha256" "$1/prometheus" | sha256sum --check --status
}

# The first mirror of Debian itself in the machine's own sources, of either format.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null \
        | grep -v '^[[:space:]]*#' | grep -oE '(https?|file|mirror\+file)://?[^] ]*/debian/?([[:space:]]|$)' | head -n 1 | tr -d '[:space:]'
}

# An apt of its own: its lists, its cache and its sources lie in the draft; what the machine has installed does not matter. The
# machine's settings do, since they name proxies, but not what it does after an update.
own_apt() {
    apt-get -qq -c "$draft/apt.conf" -o Dir::Etc="$draft/etc" -o Dir::Etc::TrustedParts=/etc/apt/trusted.gpg.d -o Dir::State="$draft/state" \
        -o Dir::State::status="$draft/status" -o Dir::Cache="$draft/cache" -o APT::Architecture=amd64 -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=20 "$@"
}

fetch() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || unavailable "prometheus can be fetched for Linux on x86-64 only"
    for program in apt-get dpkg-deb sha256sum; do
        command -v "$program" >/dev/null || unavailable "fetching prometheus needs $program"
    done
    from=$(mirror)
    [ -n "$from" ] || unavailable "no mirror of Debian is named in /etc/apt, so prometheus cannot be fetched"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keyring" ] || unavailable "$keyring is missing (Debian's package debian-archive-keyring)"
    mkdir -p "$tools"
    draft=$(mktemp -d "$tools/draft-XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$draft/etc/sources.list.d" "$draft/etc/preferences.d" "$draft/state/lists/partial" "$draft/cache/archives/partial"
    : >"$draft/status"
    for hook in Update::Pre-Invoke Update::Post-Invoke Update::Post-Invoke-Success; do
        echo "#clear APT::$hook;"
    done >"$draft/apt.conf"
    echo "deb [signed-by=$keyring] $from $suite main" >"$draft/etc/sources.list"
    own_apt update >&2 || unavailable "the lists of $suite could not be fetched (reason above)"
    (cd "$draft" && own_apt download prometheus promtool >&2) || unavailable "the packages prometheus and promtool could not be fetched (reason above)"
    for package in "$draft"/*.deb; do
        dpkg-deb -x "$package" "$draft/unpacked"
    done
    found="$draft/unpacked/usr/bin"
    is_pinned "$found" || unavailable "the mirror's prometheus is not the pinned $version: look at its changes, then pin it anew in $0"
    mv -f "$found/prometheus" "$found/promtool" "$tools/"
}

is_pinned "$tools" || fetch
