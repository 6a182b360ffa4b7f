#!/bin/sh
# Makes the cluster of POSTGRES_USER, POSTGRES_PASSWORD (or what the file POSTGRES_PASSWORD_FILE holds) and POSTGRES_DB in PGDATA at
# the first start, then is the server.
set -eu

sockets=/var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password="${POSTGRES_PASSWORD_FILE:-/tmp/password}"
    [ -n "${POSTGRES_PASSWORD_FILE:-}" ] || printf '%s' "$POSTGRES_PASSWORD" >"$password"
    initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile="$password" --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C
    rm -f /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --pgdata="$PGDATA" --wait --options="-c listen_addresses='' -c unix_socket_directories=$sockets" start
    createdb --host="$sockets" --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --pgdata="$PGDATA" --wait --mode=fast stop
fi
exec postgres -D "$PGDATA" -c "listen_addresses=*" -c "unix_socket_directories=$sockets"
