# One image, every role: `apihub gateway`, `apihub control-plane`, `apihub migrate`. Postgres and Redis are not in it.
FROM rust:1.95-slim-bookworm AS build
# The second line is what the program is trained with, before it is built for good (docs/BENCHMARKS.md).
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ make \
    llvm-19 nghttp2-client nginx-light openssl python3 redis-server wrk \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches outlive the build, so that a change of ours does not compile the dependencies again for the program that is trained. The
# one that is kept is built from nothing each time: its profile is a new one.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    benches/load/pgo \
 && cp target/pgo/apihub/use/dist/apihub /apihub

FROM debian:12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates tzdata \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/apihub --create-home apihub
COPY --from=build /apihub /usr/local/bin/apihub
COPY config/gateway.toml config/control-plane.toml /etc/apihub/
# Snapshot and spool of a gateway: give each one a volume of its own.
VOLUME /var/lib/apihub
WORKDIR /var/lib/apihub
USER 10001:10001
EXPOSE 8080 8443 9090
# A gateway's; of a control plane ask http://127.0.0.1:8081/readyz.
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s \
  CMD ["/usr/local/bin/apihub", "health", "--url", "http://127.0.0.1:9090/readyz"]
ENTRYPOINT ["/usr/local/bin/apihub"]
CMD ["gateway", "--config", "/etc/apihub/gateway.toml"]
