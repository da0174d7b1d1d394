package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ip-masq-guard/ip-masq-guard/e2e/twonode"
)

// programVariable makes this test binary the program under test.
const programVariable = "IPMASQ_E2E_CLUSTER"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	os.Exit(m.Run()) //nolint:forbidigo // this is the tests' main
}

// However the program ends, nothing of the cluster stays.
func TestNothingStays(t *testing.T) {
	twonode.Require(t)
	for _, tt := range []struct {
		name   string
		up     bool // wait for the cluster; else it is in the middle of its start
		signal syscall.Signal
	}{
		{"killed when it is up", true, syscall.SIGKILL},
		{"killed while it starts", false, syscall.SIGKILL},
		{"told to end", true, syscall.SIGTERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			temp := t.TempDir()
			kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
			before := lookAround(t, temp)

			command := exec.Command(os.Args[0], "--root=../../..", "--bin="+os.Getenv("IPMASQ_BIN"), "--nodes=node-1", "--kubeconfig="+kubeconfig)
			command.Env = append(os.Environ(), programVariable+"=1", "TMPDIR="+temp)
			var log bytes.Buffer
			command.Stdout, command.Stderr = &log, &log
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = command.Process.Kill() // of a failed test
				if t.Failed() {
					t.Logf("the program's output:\n%s", &log)
				}
			}()
			wait(t, time.Minute, func() error {
				kubelet, err := filepath.Glob(filepath.Join(temp, "*", "node-1", "kubelet.log"))
				if !tt.up && len(kubelet) == 1 {
					return err
				}
				_, err = os.Stat(kubeconfig)
				return err
			})
			if during := lookAround(t, temp); len(during["processes"]) == 0 || len(during["cgroups"]) == 0 {
				t.Errorf("this test does not see what it looks for: %v", during)
			}
			if tt.up {
				nodes, err := exec.Command(kubectl(t), "--kubeconfig="+kubeconfig, "get", "nodes", "--no-headers").CombinedOutput()
				if err != nil || !strings.Contains(string(nodes), " Ready ") {
					t.Errorf("kubectl get nodes: %v\n%s", err, nodes)
				}
			}

			if err := command.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			err := command.Wait()
			if ok := err == nil; ok != (tt.signal == syscall.SIGTERM) {
				t.Errorf("the program ended with: %v\n%s", err, &log)
			}
			wait(t, 15*time.Second, func() error {
				if diff := cmp.Diff(before, lookAround(t, temp)); diff != "" {
					return fmt.Errorf("the machine is not as it was:\n%s", diff)
				}
				return nil
			})
		})
	}
}

func kubectl(t *testing.T) string {
	t.Helper()
	binaries, err := twonode.FindBinaries(t.Context(), "../../cluster/build.sh")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(binaries.ControlPlane, "kubectl")
}

func wait(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// lookAround reads what a cluster could leave on the machine. Other tests may run
// beside this one, so of processes, mounts and cgroups it takes those that have to do
// with clusters whose folder is in temp, or with nodes in general.
func lookAround(t *testing.T, temp string) map[string][]string {
	t.Helper()
	state := map[string][]string{}
	entries, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		state["folders"] = append(state["folders"], entry.Name())
	}
	if err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		// Cgroups of others may come and go meanwhile.
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name(), "ip-masq-guard-twonode-") && ownedBy(temp, entry.Name()) {
			state["cgroups"] = append(state["cgroups"], path)
			return fs.SkipDir
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		for _, mark := range []string{temp, "kubelet", "containerd", "netns", " /proc", " /sys", " /run", " /var "} {
			if strings.Contains(line, mark) {
				state["mounts"] = append(state["mounts"], line)
				break
			}
		}
	}

	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		line, gone := os.ReadFile(command)
		if gone != nil {
			continue
		}
		directory, _ := os.Readlink(filepath.Join(filepath.Dir(command), "cwd"))
		if strings.Contains(string(line), temp) || strings.HasPrefix(directory, temp) {
			state["processes"] = append(state["processes"], strings.ReplaceAll(string(line), "\x00", " "))
		}
	}

	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		state["interfaces"] = append(state["interfaces"], i.Name)
	}
	rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("listing the machine's rules: %v\n%s", err, rules)
	}
	state["netfilter"] = strings.Split(string(rules), "\n")
	for _, name := range []string{
		"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
		"vm/overcommit_memory", "vm/panic_on_oom", "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet",
		"net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_max",
	} {
		value, unreadable := os.ReadFile("/proc/sys/" + name)
		state["sysctls"] = append(state["sysctls"], fmt.Sprintf("%s=%s%v", name, value, unreadable))
	}
	for _, path := range []string{"/var/lib/kubelet", "/var/lib/cni", "/run/cni", "/run/containerd", "/run/netns", "/var/log/pods", "/var/lib/ip-masq-guard"} {
		if _, missing := os.Stat(path); missing == nil {
			state["files"] = append(state["files"], path)
		}
	}
	return state
}

// ownedBy tells whether the cluster of this name has its folder in temp. The name is
// in the command lines of processes too, so this is asked while the folder is there,
// and, when it is gone, its cgroup must not be.
func ownedBy(temp, name string) bool {
	folders, _ := filepath.Glob(filepath.Join(filepath.Dir(temp), "*", name))
	if len(folders) > 0 {
		return filepath.Dir(folders[0]) == temp
	}
	others, _ := filepath.Glob(filepath.Join(os.TempDir(), name))
	return len(others) == 0
}
