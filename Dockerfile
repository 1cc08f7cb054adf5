# The root file system of the managed plugin; packaging/build-plugin puts config.json beside it.
FROM golang:1.26-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /layervault ./cmd/layervault

FROM debian:trixie-slim AS tools
RUN apt-get update && apt-get install -y --no-install-recommends e2fsprogs
COPY packaging/pick-tools /pick-tools
RUN /pick-tools / /rootfs

FROM scratch
COPY --from=tools /rootfs/ /
COPY --from=build /layervault /usr/bin/layervault
ENTRYPOINT ["/usr/bin/layervault", "serve"]
