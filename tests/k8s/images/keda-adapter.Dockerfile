# KEDA's server of external metrics, by the user of its own image.
FROM scratch
COPY keda-adapter /keda-adapter
USER 65532:65532
ENTRYPOINT ["/keda-adapter"]
