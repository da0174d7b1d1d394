#!/bin/bash
# Builds the images from Dockerfile.webhook and Dockerfile.agent without a registry,
# and writes them as docker-archives: OUT/webhook.tar and OUT/agent.tar.
#
#	build.sh OUT [IMAGE...]     IMAGE is webhook or agent; both by default
#
# The base images are stand-ins of the same names, made here: Debian by debootstrap
# from the mirror that this machine's apt has, Go from this machine's toolchain and
# caches. They lie in a storage of their own beside the other caches (IPMASQ_CACHE).
#
# From the environment: ARCH (this machine's), VERSION (dev), PREFIX (that of the
# chart) for the image's name, SOURCE_DATE_EPOCH and REVISION (those of the last
# commit), NO_CACHE=1 (run every step again). Needs root, buildah 1.28 and debootstrap.
set -euo pipefail

out=$(realpath -m "${1:?usage: build.sh OUT [IMAGE...]}")
shift
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(webhook agent)
cd "$(dirname "$0")/../.."

suite=bookworm
debian=docker.io/library/debian:$suite-slim
golang=docker.io/library/golang:1.26-$suite
own=$(dpkg --print-architecture)
arch=${ARCH:-$own}
version=${VERSION:-dev}
prefix=${PREFIX:-ghcr.io/ip-masq-guard}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

cache=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}/images
mkdir -p "$cache" "$out"
work=$(mktemp -d "$cache/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# One build at a time: the storage and the stand-ins are shared. No child keeps the lock.
exec 9>"$cache/lock"
flock 9
driver=overlay
run() { buildah --root "$cache/storage" --runroot "$cache/run" --storage-driver "$driver" "$@" 9>&-; }
run info >/dev/null 2>&1 || driver=vfs # no overlay on this file system

# What this machine's apt knows of the suite: mirror, suites, proxies.
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Created-By: Packages' 'Component: main' |
	grep -E " $suite(-updates|-security)? " | sort -u >"$work/sources.list" || true
apt-config dump | grep -E '^Acquire::(http|https)::' >"$work/apt.conf" || true
mirror=$(awk -v suite="$suite" '$3 == suite {print $2; exit}' "$work/sources.list")
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
export http_proxy https_proxy

# The minimal Debian of the suite, as its installer makes it. Builds update their
# lists of packages, so its age does not matter.
rootfs=$cache/debian-$suite-$own.tar
if [ ! -e "$rootfs" ]; then
	echo "making a stand-in of debian:$suite-slim: a minute once, from the cache afterwards" >&2
	debootstrap --variant=minbase "$suite" "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 9>&- || {
		tail "$work/log" >&2
		exit 1
	}
	tar -C "$work/root" --one-file-system -cf "$work/rootfs.tar" .
	mv "$work/rootfs.tar" "$rootfs"
fi

# The stand-ins, under the names that the Dockerfiles have. Go itself is mounted.
key=$(sha256sum "$work/sources.list" "$work/apt.conf" e2e/images/build.sh | sha256sum | cut -c1-16)
if [ "$(run inspect --format '{{index .OCIv1.Config.Labels "key"}}' "$golang" 2>/dev/null)" != "$key" ]; then
	container=$(run from --quiet scratch)
	run add --quiet "$container" "$rootfs" / >/dev/null
	[ ! -s "$work/sources.list" ] || run copy --quiet "$container" "$work/sources.list" /etc/apt/sources.list >/dev/null
	run copy --quiet "$container" "$work/apt.conf" /etc/apt/apt.conf.d/90host >/dev/null
	run config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
	run commit --quiet "$container" "$debian" >/dev/null
	run config --label key="$key" --env GOPATH=/go --env GOTOOLCHAIN=local --env GOPROXY=off --env GOFLAGS=-mod=readonly \
		--env PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
	run commit --quiet --rm "$container" "$golang" >/dev/null
fi

go list -deps ./webhook ./agent >/dev/null # downloads what the module cache lacks
mounts=()
for mount in "$(go env GOROOT):/usr/local/go:ro" "$(go env GOMODCACHE):/go/pkg/mod" "$(go env GOCACHE):/root/.cache/go-build" \
	/etc/ssl/certs:/etc/ssl/certs:ro /usr/share/ca-certificates:/usr/share/ca-certificates:ro; do
	[ ! -e "${mount%%:*}" ] || mounts+=(--volume "$mount")
done

for image in "${images[@]}"; do
	name=$prefix/$image:$version
	# A cached layer has the time of its first build; squashed it has that of this one.
	run build --quiet --isolation chroot --pull-never --layers --squash ${NO_CACHE:+--no-cache} --timestamp "$epoch" \
		--platform "linux/$arch" --build-arg BUILDPLATFORM="linux/$own" --build-arg TARGETOS=linux --build-arg TARGETARCH="$arch" \
		--build-arg VERSION="$version" --build-arg REVISION="$revision" \
		"${mounts[@]}" --file "Dockerfile.$image" --tag "$name" . >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		exit 1
	}
	rm -f "$out/$image.tar"
	run push --quiet "$name" "docker-archive:$out/$image.tar"
done
