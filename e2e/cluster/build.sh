#!/bin/sh
# Builds programs of Kubernetes from the Go modules that go.mod pins, and prints the
# folder that holds them. A second run finds them there. The folder lies outside the
# checkout and is named after everything that goes into the binaries.
#
#	build.sh [--print]         etcd, kube-apiserver and kubectl: what most tests need
#	build.sh nodes [--print]   what a cluster with nodes needs besides
#
# With --print it prints the folder only, whether it exists or not. IPMASQ_CACHE moves
# the cache; it needs about 450 MB a version. A first build takes some minutes and
# about 5 GB in Go's own caches.
set -eu

cd "$(dirname "$0")"

# The version is linked in: unstamped binaries call themselves v0.0.0-master, and
# kubectl then warns of a version skew.
version=v1.36.3
ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version"

kubernetes=k8s.io/kubernetes/cmd
plugins=github.com/containernetworking/plugins/plugins
set_of=controlplane
binaries="etcd=go.etcd.io/etcd/server/v3 kube-apiserver=$kubernetes/kube-apiserver kubectl=$kubernetes/kubectl"
if [ "${1:-}" = nodes ]; then
	shift
	set_of=nodes
	binaries="kube-controller-manager=$kubernetes/kube-controller-manager kube-scheduler=$kubernetes/kube-scheduler
		kubelet=$kubernetes/kubelet kube-proxy=$kubernetes/kube-proxy
		bridge=$plugins/main/bridge host-local=$plugins/ipam/host-local loopback=$plugins/main/loopback"
fi

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}/$set_of
key=$( { cat go.mod go.sum build.sh; go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
dir=$cache/$key

if [ "${1:-}" = --print ] || [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

grep -q "k8s.io/kubernetes $version " go.mod || {
	echo "build.sh: go.mod does not pin k8s.io/kubernetes $version" >&2
	exit 1
}

mkdir -p "$cache"
temp=$(mktemp -d "$cache/.build-XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM

echo "building the $set_of of Kubernetes $version: minutes once, from the cache afterwards" >&2
for binary in $binaries; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$temp/${binary%%=*}" "${binary#*=}"
done
chmod 755 "$temp"

# The rename publishes all of them at once. It fails when another build was faster;
# its folder holds the same.
mv -T "$temp" "$dir" 2>/dev/null || [ -d "$dir" ]
echo "$dir"
