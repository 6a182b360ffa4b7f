# Stands in for the image `prom/prometheus` where no registry is asked: the same user, the same place for its data.
FROM localhost/debian:bookworm-slim
COPY --chmod=0755 prometheus /bin/prometheus
RUN install --directory --owner=65534 --group=65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
