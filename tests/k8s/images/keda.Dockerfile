# KEDA's operator, by the user of its own image.
FROM scratch
COPY keda /keda
USER 65532:65532
ENTRYPOINT ["/keda"]
