# Stands in for the image `otel/opentelemetry-collector` where no registry is asked: the same user and place.
FROM scratch
COPY otelcol /otelcol
USER 10001
ENTRYPOINT ["/otelcol"]
