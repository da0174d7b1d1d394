#!/bin/sh
# Builds opa and conftest from the Go modules that go.mod pins, and prints the folder
# that holds them. A second run finds it there. The folder lies outside the checkout and
# is named after everything that goes into the binaries.
#
#	build.sh          build it if it is missing, print the folder
#	build.sh --print  print the folder only, whether it exists or not
#
# IPMASQ_CACHE moves the cache; it needs about 150 MB a version. A first build takes
# some minutes.
set -eu

cd "$(dirname "$0")"

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}
key=$( { cat go.mod go.sum build.sh; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
dir=$cache/regotools/$key

if [ "${1:-}" = --print ] || [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

mkdir -p "$cache/regotools"
temp=$(mktemp -d "$cache/regotools/.build-XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM

echo "building opa and conftest: minutes once, from the cache afterwards" >&2
for tool in opa conftest; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$temp/$tool" github.com/open-policy-agent/$tool
done
chmod 755 "$temp"

# The rename publishes it at once. It fails when another build was faster; its folder
# holds the same.
mv -T "$temp" "$dir" 2>/dev/null || [ -d "$dir" ]
echo "$dir"
