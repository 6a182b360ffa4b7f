#!/bin/sh
# Builds the stages `build` and `coordinator` of deploy/Dockerfile, as they are, for amd64 or arm64 without a registry of images, and
# runs the program that comes out: that of this machine on nothing but itself, that of the other one by qemu-user where it is there.
#
#   deploy/image-whole.sh FOLDER ARCH...     FOLDER keeps what the compiler made: the next run compiles and links ours alone
#
# In place of the image `rust` stands Debian with this machine's toolchain, which is mounted and cannot be changed. Needs root, buildah,
# rustup's Rust with the target of ARCH, and the base that deploy/image-test.sh makes; that also builds the stages `runtime` and `slim`.
# Exit code 69: something is missing.
set -eu
umask 022

cd "$(dirname "$0")/.."
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}"
base="$tools/debian-bookworm.tar"
cargo_home="${CARGO_HOME:-$HOME/.cargo}"
rust=$(sed -n 's/^FROM --platform=\$BUILDPLATFORM \(rust:[^ ]*\) AS build$/\1/p' deploy/Dockerfile)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name="localhost/orchestr8-image-whole"

lacks() {
    echo "image-test: $1" >&2
    exit 69
}
fails() {
    echo "image-test: $1" >&2
    exit 1
}

# machine_of ARCH: as the kernel, Rust and qemu call it.
machine_of() {
    case "$1" in
        amd64) echo x86_64 ;;
        arm64) echo aarch64 ;;
        *) echo "image-test: ARCH=$1: use amd64, arm64, or both in quotes" >&2; exit 64 ;;
    esac
}

[ $# -gt 0 ] || { echo "usage: image-whole.sh FOLDER ARCH..., of amd64 and arm64" >&2; exit 64; }
for arch in "$@"; do
    machine_of "$arch" >/dev/null
done
case "$(uname -m)" in
    x86_64) here=amd64 ;;
    aarch64) here=arm64 ;;
    *) lacks "this machine is $(uname -m): use one with amd64 or arm64" ;;
esac
[ "$(id -u)" = 0 ] || lacks "building an image without a daemon needs root here"
command -v buildah >/dev/null || lacks "buildah is missing (on Debian: apt-get install buildah)"
command -v readelf >/dev/null || lacks "readelf is missing (on Debian: apt-get install binutils)"
command -v rustup >/dev/null || lacks "rustup is missing: the build's container is given its toolchain"
[ -f "$base" ] || lacks "$base is missing: deploy/image-test.sh makes it"
[ -n "$rust" ] || fails "deploy/Dockerfile no longer says which image of rust it starts from"
sysroot=$(rustc --print sysroot)
rustup_home=$(rustup show home)
for arch in "$@"; do
    machine=$(machine_of "$arch")
    [ -d "$sysroot/lib/rustlib/$machine-unknown-linux-gnu" ] || lacks "Rust has no target for $arch here (rustup target add $machine-unknown-linux-gnu)"
done
# Everything that the build may need: in its container cargo asks no network.
cargo fetch --locked --quiet || lacks "the crates of Cargo.lock could not be fetched"

# Storage of its own, gone at the end: nothing of this machine's images is touched.
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
trap 'exit 130' INT TERM
# For the image's user, whatever rights the checkout has.
install -D --mode=0644 examples/quality-gates.yaml "$store/examples/quality-gates.yaml"
image() {
    buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"
}

# What the official image of rust has that the Dockerfile counts on: a linker, python3, and Rust at these places.
make_rust() {
    container=$(image from scratch)
    image add --quiet "$container" "$base" / >/dev/null
    image run --isolation chroot "$container" -- sh -ec 'apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3' \
        >"$store/log" 2>&1 || { cat "$store/log" >&2; lacks "Debian's packages for the build are not to be had"; }
    image config --env RUSTUP_HOME=/usr/local/rustup --env CARGO_HOME=/usr/local/cargo --env RUSTUP_TOOLCHAIN="$(basename "$sysroot")" \
        --env CARGO_NET_OFFLINE=true --env PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    image commit --quiet --rm "$container" "localhost/$rust" >/dev/null
}

# build ARCH: the image of coordinators, by all that the Dockerfile says of it.
build() {
    mkdir -p "$folder/$1"
    # What docker knows by itself, an older buildah is told: for which machine the compiler is, and for which its program.
    image bud --quiet --isolation chroot --pull-never --target coordinator \
        --platform "linux/$1" --build-arg BUILDPLATFORM="linux/$here" --build-arg TARGETARCH="$1" \
        --volume "$rustup_home:/usr/local/rustup:ro" --volume "$cargo_home/bin:/usr/local/cargo/bin:ro" \
        --volume "$cargo_home/registry:/usr/local/cargo/registry:ro" --volume "$folder/$1:/built" \
        --file deploy/Dockerfile --tag "$name:$1" . >"$store/log" 2>&1 || { tail -n 40 "$store/log" >&2; fails "the image for $1 was not built"; }
}

# look_at ARCH: that it is for that machine, needs no library, and works.
look_at() {
    machine=$(machine_of "$1")
    said=$(image inspect --type image --format '{{.OCIv1.Architecture}} {{.OCIv1.Config.User}}' "$name:$1")
    [ "$said" = "$1 10001:10001" ] || fails "the image for $1 says of itself: $said"
    holder=$(image from --pull-never --arch "$1" "$name:$1")
    root=$(image mount "$holder")
    program="$root/usr/local/bin/orchestr8"
    case "$1 $(readelf --file-header "$program" | sed -n 's/^ *Machine: *//p')" in
        "amd64 "*X86-64* | "arm64 "*AArch64*) ;;
        *) fails "the program for $1 is for another machine: $(readelf --file-header "$program" | grep Machine)" ;;
    esac
    if readelf --program-headers --dynamic "$program" | grep -E 'INTERP|NEEDED' >&2; then fails "the program for $1 is not static"; fi
    shim="$folder/$1/$machine-unknown-linux-gnu/release/orchestr8-shim"
    [ -f "$shim" ] || fails "there is no orchestr8-shim for $1"
    if readelf --program-headers --dynamic "$shim" | grep -E 'INTERP|NEEDED' >&2; then fails "the shim for $1 is not static"; fi
    size=$(du --bytes "$program" | cut -f 1)
    if [ "$1" = "$here" ]; then
        works "$1" image run --isolation chroot --volume "$store/examples:/examples:ro" "$holder" -- orchestr8
    elif emulator=$(command -v "qemu-$machine" || command -v "qemu-$machine-static"); then
        works "$1" "$emulator" "$program"
    else
        echo "image for $1: static, $size bytes, not run: qemu-user is missing (on Debian: apt-get install qemu-user)"
    fi
}

# works ARCH WORD...: how the program is run here.
works() {
    arch="$1"
    shift
    said=$("$@" --version) || fails "the program for $arch does not run"
    [ "$said" = "orchestr8 $version" ] || fails "the program for $arch says it is $said"
    examples="$store/examples"
    [ "$1" != image ] || examples=/examples
    told=$("$@" validate "$examples/quality-gates.yaml" 2>&1) || fails "the program for $arch cannot read a definition: $told"
    echo "image for $arch: static, $size bytes, runs: $said"
}

make_rust
for arch in "$@"; do
    build "$arch"
    look_at "$arch"
done
