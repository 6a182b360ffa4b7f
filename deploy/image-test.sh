#!/bin/sh
# Builds the images of deploy/Dockerfile around a binary of this machine and the `orchestr8-shim` beside it, without a daemon, and runs them.
#
#   deploy/image-test.sh BINARY          ORCHESTR8_FETCH_S=N: what is fetched may take so many seconds, 240 unless told
#                                        ORCHESTR8_IMAGE_ANEW=1: also builds the runtime stage anew, and compares it with the kept one
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
kept="$tools/image/runtime-$(cat deploy/Dockerfile "$0" | sha256sum | cut -c 1-16).tar"
name="localhost/orchestr8-image-test"
# Who fetches may not wait for ever.
fetch_s="${ORCHESTR8_FETCH_S:-240}"
# Every file, and the image itself, is of this moment: two builds of the same are the same.
moment=$(sed -n 's/^ARG SOURCE_DATE_EPOCH=//p' deploy/Dockerfile)

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
trap 'rm -rf "$store"' EXIT
trap 'exit 130' INT TERM
image() {
    command="$1"
    shift
    timeout "$fetch_s" buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$command" "$@"
}

# image_id NAME: the hash of its configuration, which holds those of its layers.
image_id() {
    image images --no-trunc --quiet "$1" | head -n 1
}

# make_runtime FILE: the runtime stage, flat, into FILE. A Dockerfile that is wrong fails; a network that is not there is said.
make_runtime() {
    mkdir -p "$tools/image"
    if [ ! -f "$base" ]; then
        command -v mmdebstrap >/dev/null || lacks "mmdebstrap is missing (on Debian: apt-get install mmdebstrap), and there is no $base"
        # A base of an earlier version may be a folder.
        rm -rf "$base" "$base.draft"
        timeout "$fetch_s" mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates bookworm "$base.draft" || lacks "the base was not to be had"
        mv "$base.draft" "$base"
    fi
    from_base=$(image from scratch)
    image add --quiet "$from_base" "$base" / >/dev/null
    image commit --quiet --timestamp "$moment" "$from_base" localhost/debian:bookworm-slim >/dev/null
    ended=0
    image bud --quiet --squash --timestamp "$moment" --isolation chroot --target runtime --build-arg DEBIAN=localhost/debian:bookworm-slim \
        --file deploy/Dockerfile --tag "$name:runtime" deploy >"$store/log" 2>&1 || ended=$?
    [ "$ended" != 124 ] || lacks "the runtime stage was not built within $fetch_s s: the network or this machine is too slow"
    if [ "$ended" != 0 ]; then
        cat "$store/log" >&2
        image run --isolation chroot "$from_base" -- apt-get update >/dev/null 2>&1 || lacks "Debian's packages are not to be had"
        fails "the runtime stage was not built"
    fi
    image rm "$from_base" >/dev/null
    image push --quiet "$name:runtime" "docker-archive:$1.$$:$name:runtime" >/dev/null
    mv "$1.$$" "$1"
}

# stage NAME: its lines of the Dockerfile.
stage() {
    sed -n "/^FROM .* AS $1\$/,/^\$/p" deploy/Dockerfile
}

# The stages that come after `build`, word for word, around this machine's binary. The last of them is what the documentation tells to
# put into an image of one's own.
around_binary() {
    mkdir "$store/context"
    cp "$binary" "$store/context/orchestr8"
    [ -f "$(dirname "$binary")/orchestr8-shim" ] || fails "there is no orchestr8-shim beside $binary"
    cp "$(dirname "$binary")/orchestr8-shim" "$store/context/orchestr8-shim"
    chmod 0755 "$store/context/orchestr8" "$store/context/orchestr8-shim"
    python3 deploy/sbom.py >"$store/context/sbom.cdx.json"
    {
        printf 'FROM scratch AS build\nCOPY orchestr8 orchestr8-shim sbom.cdx.json /out/\n'
        printf 'FROM %s:runtime AS runtime\n' "$name"
        stage coordinator
        stage slim
    } >"$store/context/Dockerfile"
    sed -n '/^FROM your\/tools:7$/,/^```$/p' docs/images.md | sed -e '/^```$/d' -e "s|your/tools:7|$name:runtime|" -e "s|orchestr8:0.1.0|$name:slim|" >"$store/context/own"
    [ "$(grep -c . "$store/context/own")" = 5 ] || fails "docs/images.md no longer has its five lines"
}

# build TAG WORD...: the folder's Dockerfile, or another; what it says is shown where it fails.
build() {
    tag="$1"
    shift
    image bud --quiet --timestamp "$moment" --isolation chroot --tag "$name:$tag" "$@" "$store/context" >"$store/log" 2>&1 || { cat "$store/log" >&2; fails "$tag was not built"; }
}

[ -f "$kept" ] || make_runtime "$kept"
image pull --quiet "docker-archive:$kept" >/dev/null
if [ "${ORCHESTR8_IMAGE_ANEW:-}" = 1 ]; then
    first=$(image_id "$name:runtime")
    make_runtime "$store/anew"
    [ "$(image_id "$name:runtime")" = "$first" ] || fails "the runtime stage built anew is $(image_id "$name:runtime"), not $first"
    echo "runtime stage built anew: the same"
fi
around_binary
build slim --target slim
built=$(image_id "$name:slim")
build again --target slim
[ "$(image_id "$name:again")" = "$built" ] || fails "two builds differ: $built and $(image_id "$name:again")"
echo "built twice: $built"
build coordinator --target coordinator
build own --file "$store/context/own"

# As the image's user. It may not write where it does not live, and what an executor needs it may.
inside=$(image from "$name:slim")
image run --isolation chroot "$inside" -- sh -eu -c '
fails() { echo "image-test: $1" >&2; exit 1; }
echo "user: $(id)"
[ "$(id -u)" = 10001 ] || fails "its user is $(id -u)"
for program in sh git curl tini; do command -v "$program" >/dev/null || fails "$program is missing"; done
test -s /etc/ssl/certs/ca-certificates.crt || fails "it has no authorities"
orchestr8 --version
case "$(orchestr8-shim --version)" in "orchestr8-shim $(orchestr8 --version | cut -d " " -f 2) "*) ;; *) fails "its shim is of another version" ;; esac
orchestr8 executor --help >/dev/null
if touch /usr/local/bin/x 2>/dev/null; then fails "it can change its programs"; fi
touch /var/lib/orchestr8/x || fails "it cannot write in its own folder"
echo "crates listed: $(grep -c "\"type\": \"library\"" /usr/share/doc/orchestr8/sbom.cdx.json)"
'
# A binary that is not static, as those of tests, does not run on nothing.
holder=$(image from "$name:coordinator")
files=$(cd "$(image mount "$holder")" && find . -type f | sort | tr '\n' ' ')
[ "$files" = "./usr/local/bin/orchestr8 ./usr/share/doc/orchestr8/sbom.cdx.json " ] || fails "the image of coordinators has $files"
image run --isolation chroot "$(image from "$name:own")" -- sh -ec "orchestr8 --version && orchestr8-shim --version" >/dev/null || fails "the five lines of docs/images.md do not work"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
for tag in slim coordinator; do
    described=$(image inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.User}} {{index .OCIv1.Config.Labels "org.opencontainers.image.version"}} {{index .OCIv1.Config.Labels "org.opencontainers.image.revision"}}' "$name:$tag")
    [ "$described" = "[/usr/local/bin/orchestr8] 10001:10001 $version unknown" ] || fails "$tag says of itself: $described"
done
own=$(image inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}} {{.OCIv1.Config.User}}' "$name:own")
[ "$own" = "[/usr/local/bin/orchestr8] [executor] 10001:10001" ] || fails "an image of one's own starts $own"
size() { image images --format '{{.Size}}' "$name:$1" | head -n 1; }
echo "size: $(size slim), of coordinators $(size coordinator), with $(du -h "$binary" | cut -f 1) of the binary"
