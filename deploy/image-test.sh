#!/bin/sh
# Builds the runtime stage of deploy/Dockerfile around a binary of this machine, without a daemon, and runs it.
#
#   deploy/image-test.sh BINARY          ORCHESTR8_FETCH_S=N: what is fetched may take so many seconds, 240 unless told
#
# Needs buildah, and once mmdebstrap for the base (on Debian: apt-get install buildah mmdebstrap), as root. Exit code 69: something is
# missing, or not to be had from the network. What was fetched is kept in .orchestr8/tools, and so is the runtime stage until the
# Dockerfile changes: then this takes seconds. The stage `build` is not built here: that is `docker build`.
set -eu

cd "$(dirname "$0")/.."
binary="$1"
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}"
base="$tools/debian-bookworm.tar"
# Two runs at the same time do not share it half written.
kept="$tools/image/runtime-$(sha256sum deploy/Dockerfile | cut -c 1-16).tar"
name="localhost/orchestr8-image-test"
# Who fetches may not wait for ever.
fetch_s="${ORCHESTR8_FETCH_S:-240}"

lacks() {
    echo "image-test: $1" >&2
    exit 69
}
fails() {
    echo "image-test: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || lacks "building an image without a daemon needs root here"
command -v buildah >/dev/null || lacks "buildah is missing (on Debian: apt-get install buildah)"

# Storage of its own, gone at the end: nothing of this machine's images is touched.
store=$(mktemp -d)
work=""
finish() {
    [ -z "$work" ] || image rm "$work" >/dev/null 2>&1 || true
    rm -rf "$store"
}
trap finish EXIT
trap 'exit 130' INT TERM
image() {
    command="$1"
    shift
    timeout "$fetch_s" buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$command" "$@"
}

# The runtime stage, flat, into $kept. A Dockerfile that is wrong fails; a network that is not there is said.
make_runtime() {
    mkdir -p "$tools/image"
    if [ ! -f "$base" ]; then
        command -v mmdebstrap >/dev/null || lacks "mmdebstrap is missing (on Debian: apt-get install mmdebstrap), and there is no $base"
        timeout "$fetch_s" mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$base.draft" || lacks "the base was not to be had"
        mv "$base.draft" "$base"
    fi
    from_base=$(image from scratch)
    image add --quiet "$from_base" "$base" / >/dev/null
    image commit --quiet "$from_base" localhost/debian:bookworm-slim >/dev/null
    ended=0
    image bud --quiet --squash --isolation chroot --target runtime --build-arg DEBIAN=localhost/debian:bookworm-slim \
        --file deploy/Dockerfile --tag "$name" deploy >"$store/log" 2>&1 || ended=$?
    [ "$ended" != 124 ] || lacks "the runtime stage was not built within $fetch_s s: the network or this machine is too slow"
    if [ "$ended" != 0 ]; then
        cat "$store/log" >&2
        image run --isolation chroot "$from_base" -- apt-get update >/dev/null 2>&1 || lacks "Debian's packages are not to be had"
        fails "the runtime stage was not built"
    fi
    image push --quiet "$name" "docker-archive:$kept.$$:$name:1" >/dev/null
    mv "$kept.$$" "$kept"
}

[ -f "$kept" ] || make_runtime
stage=$(image pull --quiet "docker-archive:$kept")
work=$(image from "$stage")
python3 deploy/sbom.py >"$store/sbom.cdx.json"
image copy --quiet --chmod 0755 "$work" "$binary" /usr/local/bin/orchestr8 >/dev/null
image copy --quiet "$work" "$store/sbom.cdx.json" /usr/share/doc/orchestr8/sbom.cdx.json >/dev/null

# As the image's user. It may not write where it does not live, and what an executor needs it may.
image run --isolation chroot "$work" -- sh -eu -c '
fails() { echo "image-test: $1" >&2; exit 1; }
echo "user: $(id)"
[ "$(id -u)" = 10001 ] || fails "its user is $(id -u)"
for program in sh git curl tini; do command -v "$program" >/dev/null || fails "$program is missing"; done
test -s /etc/ssl/certs/ca-certificates.crt || fails "it has no authorities"
orchestr8 --version
orchestr8 executor --help >/dev/null
if touch /usr/local/bin/x 2>/dev/null; then fails "it can change its programs"; fi
touch /var/lib/orchestr8/x || fails "it cannot write in its own folder"
echo "crates listed: $(grep -c "\"type\": \"library\"" /usr/share/doc/orchestr8/sbom.cdx.json)"
'
entry=$(image inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}' "$stage")
[ "$entry" = "[/usr/local/bin/orchestr8] 10001:10001" ] || fails "it starts $entry"
labels=$(image inspect --type image --format '{{index .OCIv1.Config.Labels "org.opencontainers.image.version"}} {{index .OCIv1.Config.Labels "org.opencontainers.image.revision"}}' "$stage")
[ "$labels" = "$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1) unknown" ] || fails "its labels say $labels"
echo "size: $(image images --format '{{.Size}}' "$stage" | head -n 1) and $(du -h "$binary" | cut -f 1) of the binary"
