#!/bin/sh
# Draws what compose.yaml needs into deploy/compose/secrets. What is there stays: passwords outlive an upgrade.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets

# drawn BYTES: so many, in hexadecimal. A letter in front, since nats-server reads what begins with a digit as a number.
drawn() {
    printf 'x%s' "$(od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n')"
}

# kept FILE: a secret of its own, drawn once.
kept() {
    [ -s "$1" ] || drawn 24 >"$1"
}

for name in token metrics-token postgres-password grafana-password nats-coordinator nats-executor; do kept "$name"; done
[ -s token-keys ] || printf '1:%s\n' "$(drawn 32 | tail -c 64)" >token-keys
cat >coordinator.env <<END
ORCHESTR8_DATABASE_URL=postgres://orchestr8:$(cat postgres-password)@postgres:5432/orchestr8
ORCHESTR8_NATS_URL=nats://coordinator:$(cat nats-coordinator)@nats:4222
END
cat >executor.env <<END
ORCHESTR8_NATS_URL=nats://default:$(cat nats-executor)@nats:4222
END
cat >nats.env <<END
ORCHESTR8_NATS_PASSWORD_COORDINATOR=$(cat nats-coordinator)
ORCHESTR8_NATS_PASSWORD_DEFAULT=$(cat nats-executor)
END
# Read inside containers by users of other numbers.
chmod 0444 token token-keys metrics-token postgres-password grafana-password
chmod 0711 .
