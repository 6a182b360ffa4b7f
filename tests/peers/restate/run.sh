#!/usr/bin/env bash
# Restate with its Rust SDK, settings as shipped: figures as JSON lines on stdout. usage: run.sh FOLDER
. "$(dirname "$0")/../peer.sh"

packages
CARGO_TARGET_DIR=$KEPT/target cargo build --quiet --release --manifest-path "$HERE/service/Cargo.toml" >&2 ||
  unavailable "cargo does not build $HERE/service"
INGRESS_PORT=$(free_port)
SERVICE_PORT=$(free_port)
ADMIN_PORT=$(free_port)
NODE_PORT=$(free_port)
export INGRESS_PORT SERVICE_PORT
export RESTATE_INGRESS__BIND_ADDRESS=127.0.0.1:$INGRESS_PORT RESTATE_ADMIN__BIND_ADDRESS=127.0.0.1:$ADMIN_PORT
export RESTATE_BIND_ADDRESS=127.0.0.1:$NODE_PORT RESTATE_ADVERTISED_ADDRESS=http://127.0.0.1:$NODE_PORT RESTATE_BIND_IP=127.0.0.1
export RESTATE_LISTEN_MODE=tcp RESTATE_LOG_FILTER=warn DO_NOT_TRACK=1
rm -rf "$KEPT/store"
start server "$KEPT/node_modules/.bin/restate-server" --base-dir "$KEPT/store" --node-name bench
start service "$KEPT/target/release/bench-restate-service"
answers "$ADMIN_PORT"
answers "$SERVICE_PORT"
answers "$INGRESS_PORT"
for _ in $(seq 100); do
  if curl -sf -X POST "http://127.0.0.1:$ADMIN_PORT/deployments" -H 'content-type: application/json' \
    -d "{\"uri\":\"http://127.0.0.1:$SERVICE_PORT\"}" >/dev/null; then break; fi
  sleep 0.2
done
node "$KEPT/load.mjs"
