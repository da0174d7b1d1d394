// Package e2e holds the tests of the whole product on the real thing: etcd,
// kube-apiserver and kubectl on one side, iptables and packets in network
// namespaces on the other. Nothing leaves the loopback interface or those
// namespaces.
//
// Tests that need the control plane skip where its binaries are missing, unless
// REQUIRE_CLUSTER=1; cluster/build.sh builds them. IPMASQ_BIN names a folder with
// the programs under test; without it they are built from this tree.
package e2e
