# syntax=docker/dockerfile:1
# The build: dependencies first, so that a change of our own code does not compile them again.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p outrider -p outrider-control --bins \
 && mkdir /out \
 && for name in outrider outrider-control outriderctl; do strip -o /out/$name target/release/$name; done

# The image: a C library, the CA certificates, the binaries, a user without rights.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/ /usr/local/bin/
# The name that drop-in users call.
COPY --from=build /out/outrider /usr/local/bin/envoy
USER 1337:1337
EXPOSE 10000 9901
ENTRYPOINT ["/usr/local/bin/outrider"]
CMD ["-c", "/etc/envoy/envoy.yaml"]
