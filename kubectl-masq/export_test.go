package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const windowsCNI = "{\r\n  \"type\": \"win-bridge\",\r\n  \"policies\": [\r\n    {\"Name\": \"EndpointPolicy\", \"Value\": {\"Type\": \"OutBoundNAT\", " +
	"\"ExceptionList\": [\"10.96.0.0/12\"]}}\r\n  ]\r\n}\r\n"

// export runs export win-bridge in a directory of its own, where cni.conf holds a text.
func export(t *testing.T, cni, config string, args ...string) (code int, directory, stdout, stderr string) {
	t.Helper()
	directory = t.TempDir()
	for name, text := range map[string]string{"cni.conf": cni, "ip-masq-agent": config} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(directory)
	var out, errs bytes.Buffer
	code = run(t.Context(), append(strings.Fields("export win-bridge --raw -f ip-masq-agent "+known), args...), streams{out: &out, err: &errs})
	return code, directory, out.String(), errs.String()
}

func TestExportWinBridge(t *testing.T) {
	const good = "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"
	written := strings.Replace(windowsCNI, `"10.96.0.0/12"`, `"169.254.0.0/16", "10.0.0.0/8", "192.168.0.0/16"`, 1)
	params := "params.yaml"
	tests := []struct {
		name   string
		cni    string
		config string
		args   []string
		code   int
		file   string // what cni.conf holds afterwards
		stdout string
		stderr string // a part of it; empty: nothing is told
	}{
		{
			name: "in place", cni: windowsCNI, config: good, args: []string{"--into", "cni.conf"}, file: written,
			stdout: "cni.conf: line 4, policies[0].Value: 3 ranges, 1 before\n",
		},
		{
			name: "right already", cni: written, config: good, args: []string{"--into", "cni.conf"}, file: written,
			stdout: "cni.conf: right already, nothing is written\n",
		},
		{
			name: "to standard output", cni: windowsCNI, config: good, args: []string{"--into", "cni.conf", "-o", "-"}, file: windowsCNI, stdout: written,
		},
		{
			name: "the policy alone", cni: windowsCNI, config: good, file: windowsCNI,
			stdout: `{"Name":"EndpointPolicy","Value":{"Type":"OutBoundNAT","ExceptionList":["169.254.0.0/16","10.0.0.0/8","192.168.0.0/16"]}}` + "\n",
		},
		{
			name: "refused", cni: windowsCNI, config: "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 10.9.0.0/16]\n",
			args: []string{"--into", "cni.conf"}, code: 1, file: windowsCNI, stderr: "error[no-overlap]: 10.9.0.0/16",
		},
		{
			name: "refused, by force", cni: windowsCNI, config: "nonMasqueradeCIDRs: [10.0.0.0/8, 10.9.0.0/16]\nmasqLinkLocal: true\n",
			args: []string{"--into", "cni.conf", "--force"}, file: strings.Replace(windowsCNI, `"10.96.0.0/12"`, `"10.0.0.0/8", "10.9.0.0/16"`, 1),
			stdout: "cni.conf: line 4, policies[0].Value: 2 ranges, 1 before\n", stderr: "error[no-overlap]: 10.9.0.0/16",
		},
		{
			name: "not even by force", cni: windowsCNI, config: "nonMasqueradeCIDRs: [10.0.0.1/8]\n",
			args: []string{"--into", "cni.conf", "--force"}, code: 2, file: windowsCNI, stderr: "the configuration does not load",
		},
		{
			name: "IPv6", cni: windowsCNI, config: "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16, 'fd00::/8']\n",
			args: []string{"--into", "cni.conf", "--params", params}, file: written,
			stdout: "cni.conf: line 4, policies[0].Value: 3 ranges, 1 before\n",
			stderr: "note: left out, as Windows excepts IPv4 ranges alone: fd00::/8\n",
		},
		{
			name: "exceptions and overrides", cni: windowsCNI, args: []string{"--into", "cni.conf", "-o", "-"}, file: windowsCNI,
			config: "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nmasqLinkLocal: true\nmasqueradeCIDRs: [10.0.0.0/10]\n" +
				"nodeOverrides:\n- matchLabels: {pool: edge}\n  nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n",
			stdout: strings.Replace(windowsCNI, `"10.96.0.0/12"`, `"10.64.0.0/10", "10.128.0.0/9", "192.168.0.0/16"`, 1),
			stderr: "note: nodeOverrides are left out; this is what holds on a node without one\n",
		},
		{
			name: "no policy", cni: `{"type": "win-bridge"}`, config: good, args: []string{"--into", "cni.conf"}, code: 2, file: `{"type": "win-bridge"}`,
			stderr: "kubectl-masq: editing cni.conf: it has no OutBoundNAT policy, so there is nothing that could except ranges; add to the plugin's policies: ",
		},
		{
			name: "no JSON", cni: "{", config: good, args: []string{"--into", "cni.conf"}, code: 2, file: "{",
			stderr: "kubectl-masq: editing cni.conf: reading the JSON text: line 1: unexpected EOF\n",
		},
		{
			name: "no file", cni: windowsCNI, config: good, args: []string{"--into", "other.conf"}, code: 2, file: windowsCNI,
			stderr: "kubectl-masq: reading the CNI configuration: open other.conf: ",
		},
		{
			name: "nothing to write from", cni: windowsCNI, config: good, args: []string{"-o", "x"}, code: 2, file: windowsCNI,
			stderr: "kubectl-masq: -o without --into: name the CNI configuration that is to be edited\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(strings.Join(test.args, " "), params) {
				path := filepath.Join(t.TempDir(), params)
				if err := os.WriteFile(path, []byte("agent:\n  ipv6: true\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				test.args[len(test.args)-1] = path
			}
			code, directory, stdout, stderr := export(t, test.cni, test.config, test.args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d: %s", code, test.code, stderr)
			}
			file, err := os.ReadFile(filepath.Join(directory, "cni.conf"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.file, string(file)); diff != "" {
				t.Errorf("cni.conf (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.stdout, stdout); diff != "" {
				t.Errorf("standard output (-want +got):\n%s", diff)
			}
			if test.stderr == "" && stderr != "" || !strings.Contains(stderr, test.stderr) {
				t.Errorf("standard error: %s\nwant %s", stderr, test.stderr)
			}
			left, err := os.ReadDir(directory)
			if err != nil || len(left) != 2 {
				t.Errorf("the directory holds %v: %v", left, err)
			}
		})
	}
}

// TestExportKeepsModeAndLink: the file is replaced, its mode is not, and a link stays one.
func TestExportKeepsModeAndLink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no such modes")
	}
	directory := t.TempDir()
	target, link := filepath.Join(directory, "real.conf"), filepath.Join(directory, "cni.conf")
	if err := os.WriteFile(target, []byte(windowsCNI), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.conf", link); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), strings.Fields("export win-bridge --raw -f - --into "+link+" "+known),
		streams{in: strings.NewReader("nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\n"), out: &out, err: &errs})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is %v: %v", info.Mode(), err)
	}
	info, err = os.Stat(target)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file has mode %v: %v", info.Mode(), err)
	}
	if text, err := os.ReadFile(target); err != nil || !bytes.Contains(text, []byte("192.168.0.0/16")) {
		t.Errorf("the file holds %s: %v", text, err)
	}
}
