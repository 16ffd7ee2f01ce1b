# syntax=docker/dockerfile:1
# The proxy, the control plane and outriderctl in one image.
#
#   docker build -t outrider:0.1.0 .
#
# BINARIES=given takes the three from the folder `binaries` rather than compiling them; RUST and BASE are other images to build from.
ARG RUST=docker.io/library/rust:1-bookworm
ARG BASE=docker.io/library/debian:bookworm-slim
ARG BINARIES=build

# Registry and target outlive the build, so that a change of our own code does not compile everything again.
FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p outrider -p outrider-control --bins \
 && mkdir /out \
 && for name in outrider outrider-control outriderctl; do strip -o /out/$name target/release/$name; done

FROM scratch AS given
COPY binaries/ /out/

FROM ${BINARIES} AS binaries

FROM ${BASE}
# What `outrider capture` runs in a pod's init container (nft, iptables, ip), and what puts it on a node (jq); no program keeps the right to
# become somebody else.
RUN apt-get -q update \
 && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends ca-certificates iproute2 iptables jq nftables \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /usr/share/doc /usr/share/man \
 && groupadd --gid 1337 outrider \
 && useradd --uid 1337 --gid 1337 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin outrider \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=binaries /out/ /usr/local/bin/
# The name that drop-in users call.
RUN ln -s outrider /usr/local/bin/envoy

LABEL org.opencontainers.image.title="Outrider" \
      org.opencontainers.image.description="A proxy that takes Envoy's configuration, and its control plane." \
      org.opencontainers.image.licenses="Apache-2.0"
# The user whose traffic capture leaves alone.
USER 1337:1337
EXPOSE 10000 9901 15010 15020
ENTRYPOINT ["/usr/local/bin/outrider"]
CMD ["-c", "/etc/envoy/envoy.yaml"]
