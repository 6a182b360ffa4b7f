# The first process of every pod.
FROM scratch
COPY pause /pause
ENTRYPOINT ["/pause"]
