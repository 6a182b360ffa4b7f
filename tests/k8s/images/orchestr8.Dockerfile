# What deploy/Dockerfile makes of its stage `runtime` by its stage `build`, around the programs of this machine.
FROM localhost/orchestr8-runtime:1
COPY --chmod=0755 orchestr8 orchestr8-shim /usr/local/bin/
