#!/bin/sh
# Builds the runtime stage of deploy/Dockerfile around a binary of this machine, without a daemon, and runs it.
#
#   deploy/image-test.sh BINARY
#
# Needs buildah, and once mmdebstrap for the base (on Debian: apt-get install buildah mmdebstrap), as root. Exit code 69: something is
# missing. The base is kept in .orchestr8/tools. The stage `build` is not built here: that is `docker build`.
set -eu

cd "$(dirname "$0")/.."
binary="$1"
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}"
base="$tools/debian-bookworm.tar"
name="localhost/orchestr8-image-test"

lacks() {
    echo "image-test: $1" >&2
    exit 69
}

[ "$(id -u)" = 0 ] || lacks "building an image without a daemon needs root here"
command -v buildah >/dev/null || lacks "buildah is missing (on Debian: apt-get install buildah)"
if [ ! -f "$base" ]; then
    command -v mmdebstrap >/dev/null || lacks "mmdebstrap is missing, and there is no $base"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$base.draft" || lacks "the base was not to be had"
    mv "$base.draft" "$base"
fi

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
    buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$command" "$@"
}

base_container=$(image from scratch)
image add --quiet "$base_container" "$base" / >/dev/null
image commit --quiet "$base_container" localhost/debian:bookworm-slim >/dev/null
image bud --quiet --isolation chroot --target runtime --build-arg DEBIAN=localhost/debian:bookworm-slim \
    --file deploy/Dockerfile --tag "$name" deploy >/dev/null
work=$(image from "$name")
image copy --quiet --chmod 0755 "$work" "$binary" /usr/local/bin/orchestr8 >/dev/null

# inside WORDS...: runs them as the image's user.
inside() {
    image run --isolation chroot "$work" -- "$@"
}

echo "user: $(inside id)"
[ "$(inside id -u)" = 10001 ]
for program in sh git curl tini; do inside sh -c "command -v $program" >/dev/null || { echo "image-test: $program is missing" >&2; exit 1; }; done
inside test -s /etc/ssl/certs/ca-certificates.crt
inside orchestr8 --version
inside orchestr8 executor --help >/dev/null
# It may not write where it does not live, and what an executor needs it may.
if inside touch /usr/local/bin/x 2>/dev/null; then echo "image-test: it can change its programs" >&2; exit 1; fi
inside touch /var/lib/orchestr8/x
entry=$(image inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}}' "$name")
[ "$entry" = "[/usr/local/bin/orchestr8] 10001:10001" ] || { echo "image-test: it starts $entry" >&2; exit 1; }
echo "size: $(image images --format '{{.Size}}' "$name") and $(du -h "$binary" | cut -f 1) of the binary"
