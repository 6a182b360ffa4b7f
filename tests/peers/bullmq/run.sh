#!/usr/bin/env bash
# BullMQ on a Redis that waits for the disk at each write, as ours does: figures as JSON lines on stdout. usage: run.sh FOLDER
. "$(dirname "$0")/../peer.sh"

REDIS_SERVER=${REDIS_SERVER:-redis-server}
command -v "$REDIS_SERVER" >/dev/null || unavailable "there is no redis-server: install Debian's redis-server, or set REDIS_SERVER to its path"
packages
REDIS_PORT=$(free_port)
export REDIS_PORT
rm -rf "$KEPT/redis"
mkdir "$KEPT/redis"
start redis "$REDIS_SERVER" --port "$REDIS_PORT" --bind 127.0.0.1 --dir "$KEPT/redis" \
  --appendonly yes --appendfsync always --save "" --maxmemory-policy noeviction
answers "$REDIS_PORT"
start worker node "$KEPT/worker.mjs"
node "$KEPT/load.mjs"
