#!/bin/sh
# Builds the program of this folder, and lays the CRDs of ServiceMonitor and
# PrometheusRule beside it, from the Go modules that go.mod pins; prints the folder that
# holds them. A second run finds them there. The folder lies outside the checkout and is
# named after everything that goes into it.
#
#	build.sh          build what is missing, print the folder
#	build.sh --print  print the folder only, whether it exists or not
#
# IPMASQ_CACHE moves the cache; it needs about 10 MB a version.
set -eu

cd "$(dirname "$0")"

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}
key=$( { cat go.mod go.sum build.sh ./*.go; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
dir=$cache/prometheus/$key

if [ "${1:-}" = --print ] || [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

mkdir -p "$cache/prometheus"
temp=$(mktemp -d "$cache/prometheus/.build-XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM

echo "building the parsers of Prometheus: a minute once, from the cache afterwards" >&2
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$temp/promrules" .
mkdir "$temp/crds"
operator=$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)
for kind in servicemonitors prometheusrules; do
	cp "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$temp/crds"
done
chmod -R u+w,a+rX "$temp"

# The rename publishes all of it at once. It fails when another build was faster;
# its folder holds the same.
mv -T "$temp" "$dir" 2>/dev/null || [ -d "$dir" ]
echo "$dir"
