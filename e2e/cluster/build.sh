#!/bin/sh
# Builds etcd, kube-apiserver and kubectl from the Go modules that go.mod pins, and
# prints the folder that holds them. A second run finds them there. The folder lies
# outside the checkout and is named after everything that goes into the binaries.
#
#	build.sh          build what is missing, print the folder
#	build.sh --print  print the folder only, whether it exists or not
#
# IPMASQ_CACHE moves the cache; it needs about 200 MB a version. A first build takes
# some minutes and about 4 GB in Go's own caches.
set -eu

cd "$(dirname "$0")"

# The version is linked in: unstamped binaries call themselves v0.0.0-master, and
# kubectl then warns of a version skew.
version=v1.36.3
ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version"

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}
key=$( { cat go.mod go.sum build.sh; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
dir=$cache/controlplane/$key

if [ "${1:-}" = --print ] || [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

grep -q "k8s.io/kubernetes $version " go.mod || {
	echo "build.sh: go.mod does not pin k8s.io/kubernetes $version" >&2
	exit 1
}

mkdir -p "$cache/controlplane"
temp=$(mktemp -d "$cache/controlplane/.build-XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM

echo "building etcd and Kubernetes $version: minutes once, from the cache afterwards" >&2
for binary in etcd=go.etcd.io/etcd/server/v3 kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver \
	kubectl=k8s.io/kubernetes/cmd/kubectl; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$temp/${binary%%=*}" "${binary#*=}"
done
chmod 755 "$temp"

# The rename publishes all of them at once. It fails when another build was faster;
# its folder holds the same.
mv -T "$temp" "$dir" 2>/dev/null || [ -d "$dir" ]
echo "$dir"
