#!/bin/sh
# Starts the two-node cluster in the background and prints what to do with it, or ends
# it. Its kubeconfig and log lie in the cache folder, beside what build.sh built.
#
#	cluster.sh up | down
set -eu

cd "$(dirname "$0")/../.."
state=${IPMASQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ip-masq-guard}/twonode
mkdir -p "$state"

# The process of the cluster, where it is alive.
running() {
	pid=$(cat "$state/pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/exe")" = "$state/cluster" ]
}

case ${1:-} in
up)
	if running; then
		echo "the cluster is up already; make cluster-down ends it"
	else
		rm -f "$state/kubeconfig"
		go build -o "$state/cluster" ./e2e/twonode/cluster
		setsid "$state/cluster" --bin bin --kubeconfig "$state/kubeconfig" >"$state/log" 2>&1 </dev/null &
		echo $! >"$state/pid"
		while [ ! -e "$state/kubeconfig" ]; do
			sleep 0.2
			running || {
				cat "$state/log" >&2
				exit 1
			}
		done
		cat "$state/log"
	fi
	echo "export KUBECONFIG=$state/kubeconfig"
	;;
down)
	running || {
		echo "no cluster is up"
		exit
	}
	kill -TERM "$pid"
	while running; do sleep 0.1; done
	rm -f "$state/pid" "$state/kubeconfig" "$state/log" "$state/cluster"
	;;
*)
	echo "usage: $0 up | down" >&2
	exit 2
	;;
esac
