# Highwater and its demo in one image: `highwater run` by default.
FROM rust:1.95.0-bookworm AS build
WORKDIR /highwater
COPY . .
RUN cargo build --release --locked -p highwater -p highwater-demo

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home highwater
COPY --from=build /highwater/target/release/highwater /highwater/target/release/highwater-demo /usr/local/bin/
COPY config.toml /etc/highwater/config.toml
COPY scripts/compose/schema.sh /usr/local/bin/highwater-schema
USER highwater
ENV HIGHWATER_CONFIG=/etc/highwater/config.toml
ENTRYPOINT ["highwater"]
CMD ["run"]
