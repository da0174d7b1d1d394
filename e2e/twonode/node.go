package twonode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/netns"
)

const (
	runcPath        = "/usr/sbin/runc"
	nodeLimit       = 90 * time.Second // from nothing to Ready, on a busy machine
	containerdLimit = 30 * time.Second
)

// Node is a machine of the cluster: a network namespace, and in it mounts, processes
// and a name of its own.
type Node struct {
	Name string
	Host *netns.Host
	IPv4 netip.Addr
	IPv6 netip.Addr
	Pods []netip.Prefix // one of each family; empty until the node is Ready

	cluster    *Cluster
	folder     string
	init       *process
	containerd *process
	kubelet    *process
	proxy      *process
}

// NodeOptions are what may differ between nodes.
type NodeOptions struct {
	Images []string // archives to import
	Taints []string // "key=value:effect", for the registration
}

// AddNode makes a node, and waits until it is Ready and pods on it can be reached.
func (c *Cluster) AddNode(ctx context.Context, name string, options NodeOptions) (*Node, error) {
	n := c.register(name)
	return n, n.boot(ctx, options)
}

// boot goes through the steps of a machine's start.
func (n *Node) boot(ctx context.Context, options NodeOptions) error {
	for _, step := range []func() error{
		n.wire,
		func() error { return makeCgroup(n.cgroup()) },
		func() error { return n.writeFiles(options) },
		n.startInit,
		func() error { return n.startContainerd(ctx, options.Images) },
		n.StartKubelet,
		func() error { return n.join(ctx) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("starting node %s: %w", n.Name, err)
		}
	}
	return nil
}

// cgroup is the name of the node's cgroup in every hierarchy.
func (n *Node) cgroup() string { return filepath.Base(n.cluster.folder) + "/" + n.Name }

func (n *Node) wire() (err error) {
	if n.Host, err = netns.New(); err != nil {
		return err
	}
	return errors.Join(
		n.cluster.plug(n.Host, n.Name, n.IPv4, n.IPv6),
		n.Host.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), outsideIPv4),
		n.Host.AddRoute(netip.MustParsePrefix("::/0"), outsideIPv6),
		n.Host.Forward(),
	)
}

// writeFiles writes what the programs of the node read. Nodes see them at the same paths as everybody.
func (n *Node) writeFiles(options NodeOptions) error {
	if err := os.MkdirAll(filepath.Join(n.folder, "var"), 0o755); err != nil {
		return err
	}
	write := func(name, text string) error {
		return os.WriteFile(filepath.Join(n.folder, name), []byte(text), 0o600)
	}
	values := map[string]string{
		"FOLDER": n.folder, "CGROUP": "/" + n.cgroup(), "PLUGINS": n.cluster.binaries.Nodes,
		"RUNC": runcPath, "PAUSE": ProbeImage, "USERS": filepath.Join(n.cluster.folder, "users.crt"),
		"KUBECONFIG": filepath.Join(n.cluster.folder, "proxy.kubeconfig"),
		"PODS":       PodCIDR + "," + PodCIDRv6, "NODE": n.Name, "TAINTS": taints(options.Taints),
	}
	fill := func(text string) string { return os.Expand(text, func(name string) string { return values[name] }) }
	return errors.Join(
		write("containerd.toml", fill(containerdConfig)),
		write("cni.template", cniTemplate),
		write("kubelet.yaml", fill(kubeletConfig)),
		write("proxy.yaml", fill(proxyConfig)),
		n.cluster.users.WriteKubeconfig(filepath.Join(n.folder, "kubelet.kubeconfig"),
			fmt.Sprintf("https://%s:%d", controlPlaneIPv4, apiServerPort), "system:node:"+n.Name, "system:nodes"),
	)
}

// taints writes "key=value:effect" as the kubelet's configuration wants it.
func taints(all []string) string {
	type taint struct {
		Key    string `json:"key"`
		Value  string `json:"value,omitempty"`
		Effect string `json:"effect"`
	}
	list := make([]taint, 0, len(all))
	for _, text := range all {
		pair, effect, _ := strings.Cut(text, ":")
		key, value, _ := strings.Cut(pair, "=")
		list = append(list, taint{key, value, effect})
	}
	encoded, err := json.Marshal(list)
	if err != nil {
		panic(err) // three strings
	}
	return string(encoded)
}

const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE}"
  restrict_oom_score_adj = true # where CAP_SYS_RESOURCE is missing
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${PLUGINS}"
    conf_dir = "/run/cni"
    conf_template = "${FOLDER}/cni.template"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "${RUNC}"
      SystemdCgroup = false
`

// cniTemplate is filled by containerd once the node has its ranges. Plugins leave
// masquerading alone: that is the agent's.
const cniTemplate = `{
  "cniVersion": "0.4.0",
  "name": "twonode",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
    "ipam": {"type": "host-local", "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]}
  }]
}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: "${USERS}"}}
authorization: {mode: AlwaysAllow} # of those whom the authority names
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: ${CGROUP}
failCgroupV1: false
failSwapOn: false
resolvConf: ""
clusterDNS: [10.96.0.10] # nobody answers there: pods are given addresses
clusterDomain: cluster.local
registerWithTaints: ${TAINTS}
syncFrequency: 1s # a mounted ConfigMap follows a write after a second instead of a minute
fileCheckFrequency: 1h
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 10Mi, nodefs.available: "1%", imagefs.available: "1%"}
volumePluginDir: /var/lib/kubelet/plugins
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: "${KUBECONFIG}"}
hostnameOverride: ${NODE}
mode: iptables
clusterCIDR: ${PODS}
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// startInit starts this program again as init of the node, and waits until the node's
// mounts are there.
func (n *Node) startInit() error {
	ready, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	n.init, err = start(n.folder, "init", func(command *exec.Cmd) error {
		command.Env = append(os.Environ(), nodeVariable+"="+n.Name, folderVariable+"="+n.folder)
		command.ExtraFiles = []*os.File{writer}
		command.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		return n.Host.Start(command)
	}, "/proc/self/exe")
	_ = writer.Close()
	if err != nil {
		return err
	}
	if message, err := io.ReadAll(ready); err != nil || string(message) != readyMessage {
		n.init.kill()
		return fmt.Errorf("waiting for the node's mounts: %q (%w)\n%s", message, err, n.init.tail())
	}
	return nil
}

// Command prepares a command in the node: its mounts, processes, name and network.
func (n *Node) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append(n.nsenter(), argv...)...)
}

func (n *Node) nsenter() []string {
	return []string{"--target", strconv.Itoa(n.init.command.Process.Pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--"}
}

// Run runs a command in the node and returns its standard output. An error holds the
// standard error.
func (n *Node) Run(ctx context.Context, argv ...string) (string, error) {
	return output(n.Command(ctx, argv...), "")
}

// start starts a program in the node.
func (n *Node) start(name string, argv ...string) (*process, error) {
	return start(n.folder, name, (*exec.Cmd).Start, append(append([]string{"nsenter"}, n.nsenter()...), argv...)...)
}

func (n *Node) startContainerd(ctx context.Context, images []string) (err error) {
	if n.containerd, err = n.start("containerd", "containerd", "--config", filepath.Join(n.folder, "containerd.toml")); err != nil {
		return err
	}
	if err = Wait(ctx, containerdLimit, func(ctx context.Context) error {
		if ended := n.containerd.alive(); ended != nil {
			return endedError{ended}
		}
		_, asked := n.Run(ctx, "ctr", "version")
		return asked
	}); err != nil {
		return err
	}
	for _, image := range images {
		if err = n.Import(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Import makes the images of a docker-archive known to the node.
func (n *Node) Import(ctx context.Context, archive string) error {
	if _, err := n.Run(ctx, "ctr", "--namespace", "k8s.io", "images", "import", archive); err != nil {
		return fmt.Errorf("importing an image: %w", err)
	}
	return nil
}

// NameImage gives an image of the node one more name.
func (n *Node) NameImage(ctx context.Context, image, name string) error {
	if _, err := n.Run(ctx, "ctr", "--namespace", "k8s.io", "images", "tag", "--force", image, name); err != nil {
		return fmt.Errorf("naming an image: %w", err)
	}
	return nil
}

// StartKubelet starts it, again after StopKubelet.
func (n *Node) StartKubelet() (err error) {
	n.kubelet, err = n.start("kubelet", filepath.Join(n.cluster.binaries.Nodes, "kubelet"),
		"--config="+filepath.Join(n.folder, "kubelet.yaml"),
		"--kubeconfig="+filepath.Join(n.folder, "kubelet.kubeconfig"),
		"--hostname-override="+n.Name, "--node-ip="+n.IPv4.String()+","+n.IPv6.String())
	return err
}

// StopKubelet kills it. The node's pods go on.
func (n *Node) StopKubelet() { n.kubelet.kill() }

// join waits until the node is Ready, makes its pods reachable from the control plane
// and from outside, as the network of a cloud would, and starts kube-proxy.
func (n *Node) join(ctx context.Context) error {
	var ranges []string
	if err := Wait(ctx, nodeLimit, func(ctx context.Context) error {
		for _, p := range []*process{n.containerd, n.kubelet} {
			if ended := p.alive(); ended != nil {
				return endedError{ended}
			}
		}
		out, err := n.cluster.Kubectl(ctx, "", "get", "node", n.Name, "-o",
			`jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.podCIDRs[*]}`)
		if err != nil {
			return err
		}
		fields := strings.Fields(out)
		if len(fields) < 2 || fields[0] != "True" {
			return fmt.Errorf("looking at node %s: Ready and pod ranges: %q", n.Name, out)
		}
		ranges = fields[1:]
		return nil
	}); err != nil {
		return err
	}
	if err := n.cluster.route(n, ranges); err != nil {
		return err
	}
	var err error
	n.proxy, err = n.start("kube-proxy", filepath.Join(n.cluster.binaries.Nodes, "kube-proxy"),
		"--config="+filepath.Join(n.folder, "proxy.yaml"))
	return err
}

// address is the node's own of the family of a range.
func (n *Node) address(pods netip.Prefix) netip.Addr {
	if pods.Addr().Is6() {
		return n.IPv6
	}
	return n.IPv4
}

// readyMessage is what init writes to descriptor 3 once the node can be entered.
const readyMessage = "ready"

// sysctls that a kubelet sets belong to the machine. Nodes see these files instead,
// which hold what a kubelet wants to find.
//
//nolint:gochecknoglobals // a constant in all but the language
var sysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// nodeMain is init of a node: it arranges the mounts, says so, and then only collects
// the processes that nobody waits for. With it all of the node ends.
func nodeMain(name, folder string) int {
	ready := os.NewFile(3, "ready")
	if err := furnish(name, folder); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	if _, err := io.WriteString(ready, readyMessage); err != nil {
		return 1
	}
	_ = ready.Close()
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil {
			time.Sleep(100 * time.Millisecond) // no child at the moment
		}
	}
}

// furnish gives the node its own /proc, /var and /run. Mounts are shared within the
// node, as kubelets want them, and with nobody else.
func furnish(name, folder string) error {
	mount := func(source, target, kind string, flags uintptr, data string) error {
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mounting %s: %w", target, err)
		}
		return nil
	}
	if err := errors.Join(
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""),
		mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount(filepath.Join(folder, "var"), "/var", "", unix.MS_BIND, ""),
		mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"),
		unix.Sethostname([]byte(name)),
	); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/var/tmp", "/run/lock", "/run/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", "/var/run"); err != nil {
		return err
	}
	for sysctl, value := range sysctls {
		file := filepath.Join(folder, "sysctl", sysctl)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(file), 0o755),
			os.WriteFile(file, []byte(value+"\n"), 0o600),
			mount(file, filepath.Join("/proc/sys", sysctl), "", unix.MS_BIND, ""),
		); err != nil {
			return err
		}
	}
	return nil
}
