#!/bin/sh
# Builds the static programs of the images, in two steps, so that the first stays cached while only our sources change:
#   static-build.sh dependencies   all that is not ours, around empty crates: needs the manifests and the lock file alone
#   static-build.sh binary         OUT/orchestr8 and OUT/orchestr8-shim, stripped
# TARGETARCH is amd64 or arm64, whatever the machine is. OUT is /out, CARGO_TARGET_DIR is /built, unless they are set.
set -eu
cd "$(dirname "$0")/.."
case "${TARGETARCH:-amd64}" in
    amd64) target=x86_64-unknown-linux-gnu; prefix=x86_64-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu; prefix=aarch64-linux-gnu ;;
    *) echo "TARGETARCH=$TARGETARCH: use amd64 or arm64" >&2; exit 1 ;;
esac
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-/built}"
# Both, whatever is built: build scripts are programs of this machine.
export CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Static, so that it runs on scratch and in any tool image; one unit and no paths of this machine, so that two builds are equal.
export RUSTFLAGS="-C target-feature=+crt-static -C codegen-units=1 --remap-path-prefix=$PWD=orchestr8 --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

build() {
    cargo build --locked --release --target "$target" --package orchestr8-cli --package orchestr8-executor
}

dependencies() {
    for crate in $(sed -n 's/^members = \[\(.*\)\]$/\1/p' Cargo.toml | tr -d '",'); do
        if [ -e "$crate/src" ]; then
            echo "$crate/src is there: this step makes empty crates, and is for a folder with manifests alone" >&2
            exit 1
        fi
        mkdir "$crate/src"
        if [ "$crate" = cli ]; then echo 'fn main() {}' > cli/src/main.rs; else : > "$crate/src/lib.rs"; fi
        if grep -q '^\[build-dependencies\]' "$crate/Cargo.toml"; then echo 'fn main() {}' > "$crate/build.rs"; fi
    done
    build
    # Whatever times the sources have: our own crates are built anew.
    rm -rf ./*/src ./*/*/src ./*/build.rs "$CARGO_TARGET_DIR"/release/.fingerprint/orchestr8-* "$CARGO_TARGET_DIR/$target"/release/.fingerprint/orchestr8-*
}

case "${1:-}" in
    dependencies) dependencies ;;
    binary)
        build
        mkdir -p "${OUT:=/out}"
        for program in orchestr8 orchestr8-shim; do
            "$prefix-strip" -o "$OUT/$program" "$CARGO_TARGET_DIR/$target/release/$program"
            ls -l "$OUT/$program"
        done
        ;;
    *) echo "usage: static-build.sh dependencies|binary" >&2; exit 64 ;;
esac
