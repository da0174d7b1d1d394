#!/bin/sh
# Builds the program of this folder, and lays cert-manager's CRDs beside it, from the
# Go module that go.mod pins; prints the folder that holds them. A second run finds
# them there. The folder lies outside the checkout and is named after everything
# that goes into it.
#
#	build.sh          build what is missing, print the folder
#	build.sh --print  print the folder only, whether it exists or not
#
# IPMASQ_CACHE moves the cache; it needs about 70 MB a version.
set -eu

cd "$(dirname "$0")"

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}
key=$( { cat go.mod go.sum build.sh ./*.go; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
dir=$cache/certmanager/$key

if [ "${1:-}" = --print ] || [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

mkdir -p "$cache/certmanager"
temp=$(mktemp -d "$cache/certmanager/.build-XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM

echo "building cert-manager's controllers: minutes once, from the cache afterwards" >&2
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$temp/certmanager" .
mkdir "$temp/crds"
cp "$(go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)"/deploy/crds/cert-manager.io_*.yaml "$temp/crds"
chmod -R u+w,a+rX "$temp"

# The rename publishes all of it at once. It fails when another build was faster;
# its folder holds the same.
mv -T "$temp" "$dir" 2>/dev/null || [ -d "$dir" ]
echo "$dir"
