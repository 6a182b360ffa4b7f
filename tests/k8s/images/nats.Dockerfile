# Stands in for the image `nats` where no registry is asked.
FROM scratch
COPY servers/bin/nats-server /nats-server
ENTRYPOINT ["/nats-server"]
