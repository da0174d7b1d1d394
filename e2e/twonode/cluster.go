package twonode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
	"github.com/ip-masq-guard/ip-masq-guard/e2e/pki"
)

// Addresses of the cluster. Nodes and the control plane share one Ethernet segment;
// what is outside of the cluster is behind one more host on it.
//
//nolint:gochecknoglobals // constants in all but the language
var (
	controlPlaneIPv4 = netip.MustParseAddr("10.99.0.1")
	controlPlaneIPv6 = netip.MustParseAddr("fd00:10:99::1")
	outsideIPv4      = netip.MustParseAddr("10.99.0.254")
	outsideIPv6      = netip.MustParseAddr("fd00:10:99::fe")
)

// Ranges of the cluster.
const (
	NodeCIDR    = "10.99.0.0/24"
	PodCIDR     = "10.244.0.0/16"
	ServiceCIDR = "10.96.0.0/16"

	NodeCIDRv6    = "fd00:10:99::/64"
	PodCIDRv6     = "fd00:10:244::/48"
	ServiceCIDRv6 = "fd00:10:96::/112"
)

const (
	bridge         = "br0"
	firstService   = "10.96.0.1" // of the service kubernetes.default
	apiServerPort  = 6443
	apiServerLimit = time.Minute
	nodeBits       = 24
	nodeBitsv6     = 64
)

// Binaries are folders with the programs that e2e/cluster/build.sh builds.
type Binaries struct {
	ControlPlane string // etcd, kube-apiserver, kubectl
	Nodes        string // the others
}

// FindBinaries returns what build.sh, a path, has built.
func FindBinaries(ctx context.Context, build string) (Binaries, error) {
	var b Binaries
	for _, set := range []struct {
		args []string
		dir  *string
	}{{[]string{"--print"}, &b.ControlPlane}, {[]string{"nodes", "--print"}, &b.Nodes}} {
		out, err := output(exec.CommandContext(ctx, build, set.args...), "")
		if err != nil {
			return Binaries{}, fmt.Errorf("looking for binaries: %w", err)
		}
		*set.dir = strings.TrimSpace(out)
		if _, err := os.Stat(*set.dir); err != nil {
			return Binaries{}, fmt.Errorf("looking for binaries: %w; `make nodes` builds them", err)
		}
	}
	return b, nil
}

// Cluster is a control plane and its nodes. It lives in the namespaces that Run made,
// and ends with them.
type Cluster struct {
	Outside *netns.Host // a host beyond the cluster; nodes send there what is not theirs
	Admin   string      // kubeconfig of a cluster administrator, good within the namespaces

	folder   string
	binaries Binaries
	users    pki.Authority
	home     *netns.Host
	etcd     *process
	api      *process
	others   []*process

	mu    sync.Mutex // nodes may be added at the same time
	nodes []*Node
}

// Sources are what the programs of a cluster are built from.
type Sources struct {
	Build  string // the script e2e/cluster/build.sh
	Root   string // of the source tree
	Images string // a folder with webhook.tar and agent.tar; empty: they are made
	Bin    string // a folder with the programs webhook and agent to make them of; empty: they are built
}

// Up starts a control plane and nodes of these names, at the same time, with all
// images imported.
func Up(ctx context.Context, folder string, sources Sources, nodes ...string) (*Cluster, []string, error) {
	binaries, err := FindBinaries(ctx, sources.Build)
	if err != nil {
		return nil, nil, err
	}
	images, err := BuildImages(ctx, sources, folder)
	if err != nil {
		return nil, nil, err
	}
	c, err := Start(ctx, folder, binaries)
	if err != nil {
		return nil, nil, err
	}
	errs := make([]error, len(nodes))
	var adding sync.WaitGroup
	for i, name := range nodes {
		n := c.register(name) // in this order, for the addresses
		adding.Go(func() { errs[i] = n.boot(ctx, NodeOptions{Images: images}) })
	}
	adding.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, nil, fmt.Errorf("%w\n%s", err, c.Logs())
	}
	return c, images, nil
}

// WriteKubeconfig lets an administrator in at another address of the API server.
func (c *Cluster) WriteKubeconfig(path, server string) error {
	return c.users.WriteKubeconfig(path, server, "admin", "system:masters")
}

// Forward passes connections on to the API server until the listener ends.
func Forward(door net.Listener) error {
	for {
		connection, err := door.Accept()
		if err != nil {
			return fmt.Errorf("forwarding to the API server: %w", err)
		}
		go func() {
			defer func() { _ = connection.Close() }()
			server, err := net.Dial("tcp", net.JoinHostPort(controlPlaneIPv4.String(), strconv.Itoa(apiServerPort))) //nolint:noctx // it is next door
			if err != nil {
				return // the client sees its connection end
			}
			defer func() { _ = server.Close() }()
			go func() {
				_, _ = io.Copy(server, connection)
				_ = server.Close()
			}()
			_, _ = io.Copy(connection, server)
		}()
	}
}

// Start brings up the control plane, without a node.
func Start(ctx context.Context, folder string, binaries Binaries) (*Cluster, error) {
	c := &Cluster{folder: folder, binaries: binaries, Admin: filepath.Join(folder, "admin.kubeconfig")}
	if err := errors.Join(c.wire(), c.writeFiles()); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	if err := c.launch(ctx); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	return c, nil
}

// wire makes the segment and the host outside.
func (c *Cluster) wire() (err error) {
	if c.home, err = netns.Here(); err != nil {
		return err
	}
	if c.Outside, err = netns.New(); err != nil {
		return err
	}
	return errors.Join(
		c.home.AddBridge(bridge, netip.PrefixFrom(controlPlaneIPv4, nodeBits), netip.PrefixFrom(controlPlaneIPv6, nodeBitsv6)),
		c.plug(c.Outside, "outside", outsideIPv4, outsideIPv6),
	)
}

// plug joins a host to the segment.
func (c *Cluster) plug(h *netns.Host, name string, addresses ...netip.Addr) error {
	end := netns.End{Host: h, Interface: "eth0"}
	for _, address := range addresses {
		bits := nodeBits
		if address.Is6() {
			bits = nodeBitsv6
		}
		end.Addresses = append(end.Addresses, netip.PrefixFrom(address, bits))
	}
	if err := netns.Connect(netns.End{Host: c.home, Interface: name}, end); err != nil {
		return err
	}
	return c.home.Plug(name, bridge)
}

// writeFiles makes the keys, certificates and kubeconfigs that flags name.
func (c *Cluster) writeFiles() (err error) {
	if c.users, err = pki.New("twonode"); err != nil {
		return err
	}
	server := fmt.Sprintf("https://%s:%d", controlPlaneIPv4, apiServerPort)
	kubeconfig := func(path, user string, groups ...string) error {
		return c.users.WriteKubeconfig(path, server, user, groups...)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(c.folder, "users.crt"), c.users.PEM(), 0o600),
		pki.WriteAccountKeys(c.folder),
		c.users.WriteKeyPair(c.folder, "apiserver", pki.Holder{
			User: "kube-apiserver",
			Addresses: []net.IP{
				controlPlaneIPv4.AsSlice(), net.ParseIP(firstService), {127, 0, 0, 1}, //nolint:forbidigo // what x509 wants
			},
			Names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		}),
		c.users.WriteKeyPair(c.folder, "kubelet-client", pki.Holder{User: "kube-apiserver", Groups: []string{"system:masters"}}),
		kubeconfig(c.Admin, "admin", "system:masters"),
		kubeconfig(filepath.Join(c.folder, "controller-manager.kubeconfig"), "system:kube-controller-manager"),
		kubeconfig(filepath.Join(c.folder, "scheduler.kubeconfig"), "system:kube-scheduler"),
		kubeconfig(filepath.Join(c.folder, "proxy.kubeconfig"), "system:kube-proxy"),
	)
}

// launch starts the programs of the control plane and waits until it serves.
func (c *Cluster) launch(ctx context.Context) (err error) {
	// Nobody but this process is in the network namespace, so ports are the usual.
	if c.etcd, err = c.start("etcd", c.binaries.ControlPlane, "etcd",
		"--data-dir="+filepath.Join(c.folder, "etcd"),
		"--unsafe-no-fsync", // the data ends with the cluster
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--log-level=warn"); err != nil {
		return err
	}
	if err = c.startAPIServer(ctx); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(c.folder, name) }
	for _, program := range [][]string{
		{
			"kube-controller-manager",
			"--kubeconfig=" + file("controller-manager.kubeconfig"),
			"--allocate-node-cidrs", "--cluster-cidr=" + PodCIDR + "," + PodCIDRv6,
			fmt.Sprintf("--node-cidr-mask-size-ipv4=%d", nodeBits), fmt.Sprintf("--node-cidr-mask-size-ipv6=%d", nodeBitsv6),
			"--leader-elect=false", "--bind-address=127.0.0.1",
			"--root-ca-file=" + file("users.crt"),
			"--service-account-private-key-file=" + file("accounts.key"), "--use-service-account-credentials",
		},
		{
			"kube-scheduler",
			"--kubeconfig=" + file("scheduler.kubeconfig"),
			"--leader-elect=false", "--bind-address=127.0.0.1",
		},
	} {
		p, err := c.start(program[0], c.binaries.Nodes, program...)
		if err != nil {
			return err
		}
		c.others = append(c.others, p)
	}
	return nil
}

// start runs a program of a folder beside the API server.
func (c *Cluster) start(name, folder string, argv ...string) (*process, error) {
	return start(c.folder, name, (*exec.Cmd).Start, append([]string{filepath.Join(folder, argv[0])}, argv[1:]...)...)
}

func (c *Cluster) startAPIServer(ctx context.Context) (err error) {
	file := func(name string) string { return filepath.Join(c.folder, name) }
	if c.api, err = c.start("kube-apiserver", c.binaries.ControlPlane, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--advertise-address="+controlPlaneIPv4.String(),
		fmt.Sprintf("--secure-port=%d", apiServerPort),
		"--service-cluster-ip-range="+ServiceCIDR+","+ServiceCIDRv6,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--client-ca-file="+file("users.crt"),
		"--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+file("accounts.pub"), "--service-account-signing-key-file="+file("accounts.key"),
		"--kubelet-client-certificate="+file("kubelet-client.crt"), "--kubelet-client-key="+file("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--enable-aggregator-routing=true", // webhooks are dialled at their pods: no kube-proxy is beside the API server
		"--profiling=false",
	); err != nil {
		return err
	}
	return Wait(ctx, apiServerLimit, func(ctx context.Context) error {
		for _, p := range []*process{c.etcd, c.api} {
			if err := p.alive(); err != nil {
				return endedError{err}
			}
		}
		for _, path := range []string{"/readyz", "/api/v1/namespaces/kube-system"} {
			if _, err := c.Kubectl(ctx, "", "get", "--raw", path); err != nil {
				return err
			}
		}
		return nil
	})
}

// StopAPIServer kills it. Nodes go on with what they know.
func (c *Cluster) StopAPIServer() { c.api.kill() }

// StartAPIServer starts it again and waits until it serves.
func (c *Cluster) StartAPIServer(ctx context.Context) error { return c.startAPIServer(ctx) }

// Nodes returns the nodes in the order in which they were added.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// register gives a new node its addresses.
func (c *Cluster) register(name string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	v4, v6 := controlPlaneIPv4.As4(), controlPlaneIPv6.As16()
	last := byte(11 + len(c.nodes))
	v4[3], v6[15] = last, last
	n := &Node{
		Name: name, IPv4: netip.AddrFrom4(v4), IPv6: netip.AddrFrom16(v6),
		cluster: c, folder: filepath.Join(c.folder, name),
	}
	c.nodes = append(c.nodes, n)
	return n
}

// route makes the pods of a node reachable from the control plane, from outside and
// from the other nodes, and theirs from it, as the network of a cloud would.
func (c *Cluster) route(n *Node, ranges []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, text := range ranges {
		pods, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("reading the pod range of %s: %w", n.Name, err)
		}
		n.Pods = append(n.Pods, pods)
		errs = append(errs, c.home.AddRoute(pods, n.address(pods)), c.Outside.AddRoute(pods, n.address(pods)))
	}
	for _, other := range c.nodes {
		if other == n {
			continue
		}
		for _, pods := range n.Pods {
			errs = append(errs, other.Host.AddRoute(pods, n.address(pods)))
		}
		for _, pods := range other.Pods {
			errs = append(errs, n.Host.AddRoute(pods, other.address(pods)))
		}
	}
	return errors.Join(errs...)
}

// KubectlCommand prepares kubectl as an administrator has it: nothing of the
// machine's own configuration reaches it.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(c.binaries.ControlPlane, "kubectl"), args...)
	home := filepath.Join(c.folder, "home")
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + c.Admin, "HOME=" + home, "TMPDIR=" + c.folder, "LC_ALL=C"}
	return command
}

// Kubectl runs it and returns its standard output. An error holds the standard error.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return output(c.KubectlCommand(ctx, args...), stdin)
}

// Logs returns the ends of the logs of every program of the cluster, for the message
// of a failed test.
func (c *Cluster) Logs() string {
	var b strings.Builder
	all := append([]*process{c.etcd, c.api}, c.others...)
	for _, n := range c.Nodes() {
		all = append(all, n.containerd, n.kubelet, n.proxy)
	}
	for _, p := range all {
		if p != nil {
			fmt.Fprintf(&b, "--- %s\n%s\n", p.log, p.tail())
		}
	}
	return b.String()
}
