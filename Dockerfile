# The image for those who prefer Docker; "make image" makes the same without it,
# for both architectures and the same bytes every time.
#
#   docker build --build-arg VERSION="$(git describe --tags --always)" -t overlay-cni .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETARCH
ARG VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build GOARCH=$TARGETARCH VERSION=$VERSION BIN=/out

# tools/image says why the files are of a user who is nobody in particular, and
# the daemon's user is root.
FROM scratch
COPY --from=build --chown=65532:65532 --chmod=0555 /out/overlayd /out/overlay-cni /
COPY --chown=65532:65532 --chmod=0444 LICENSE /
USER 0:0
ENTRYPOINT ["/overlayd"]
LABEL org.opencontainers.image.title="overlay-cni" \
      org.opencontainers.image.source="https://github.com/overlay-cni/overlay-cni" \
      org.opencontainers.image.licenses="Apache-2.0"
