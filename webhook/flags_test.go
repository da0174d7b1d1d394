package main

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestParseFlags(t *testing.T) {
	got, err := parseFlags([]string{"--cert-dir=/tls"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := options{
		port:    10250,
		certDir: "/tls",
		certs:   certOptions{mode: "files", secret: "ip-masq-guard-certs", propagation: 30 * time.Second},
		target:  target{"kube-system", "ip-masq-agent"},
		metrics: ":8080",
		health:  ":8081",
		drain:   10 * time.Second,

		ruleSetsKept: "ip-masq-guard-rule-sets",

		logLevel:  slog.LevelInfo,
		decisions: decisionOptions{size: 100, kept: 3},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{}, certOptions{}, decisionOptions{}, target{})); diff != "" {
		t.Errorf("defaults differ (-want +got):\n%s", diff)
	}

	got, err = parseFlags(strings.Fields("--bind-address=::1 --port 8443 --cert-dir /tls --params p.yaml --policy-dir a --policy-dir b "+
		"--configmap-namespace infra --configmap-name masq --kubeconfig k --metrics-bind-address 0 --health-probe-bind-address 127.0.0.1:0 "+
		"--drain 0s --log-level debug --decision-log /log/decisions --decision-log-full --decision-log-max-size 5 --decision-log-kept 0"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want = options{
		bindAddress: "::1",
		port:        8443,
		certDir:     "/tls",
		certs:       certOptions{mode: "files", secret: "ip-masq-guard-certs", propagation: 30 * time.Second},
		kubeconfig:  "k",
		params:      "p.yaml",
		policyDirs:  []string{"a", "b"},

		ruleSetsKept: "ip-masq-guard-rule-sets",

		target:   target{"infra", "masq"},
		metrics:  "0",
		health:   "127.0.0.1:0",
		logLevel: slog.LevelDebug,

		decisions: decisionOptions{to: "/log/decisions", full: true, size: 5},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{}, certOptions{}, decisionOptions{}, target{})); diff != "" {
		t.Errorf("options differ (-want +got):\n%s", diff)
	}

	got, err = parseFlags(strings.Fields("--certs-mode=self --certs-service=guard --webhook-configuration=guard.example --namespace=system "+
		"--certs-secret=kept --certs-name=localhost --certs-name=::1 --certs-propagation=2s"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	wantCerts := certOptions{
		mode: "self", namespace: "system", secret: "kept", service: "guard",
		names: []string{"localhost", "::1"}, configuration: "guard.example", propagation: 2 * time.Second,
	}
	if diff := cmp.Diff(wantCerts, got.certs, cmp.AllowUnexported(certOptions{})); diff != "" {
		t.Errorf("options of certificates differ (-want +got):\n%s", diff)
	}
}

func TestParseFlagsRefuses(t *testing.T) {
	tests := []struct{ name, args, want string }{
		{name: "unknown flag", args: "--cert-dir=/tls --certs=/tls", want: "unknown flag: --certs"},
		{name: "no certificate", args: "", want: "--cert-dir is missing: the API server speaks only HTTPS to webhooks; without certificate files, name --certs-service and --webhook-configuration"},
		{name: "mode", args: "--cert-dir=/tls --certs-mode=vault", want: `--certs-mode "vault": want self or files`},
		{name: "files without files", args: "--certs-mode=files", want: "--cert-dir is missing: --certs-mode=files reads the certificate there"},
		{
			name: "standing alone with certificates of its own", args: "--standalone --certs-mode=self",
			want: "--cert-dir is missing: --standalone cannot issue certificates itself (--certs-mode=self), since the API server keeps them",
		},
		{name: "standing alone with a configuration", args: "--standalone --cert-dir=/tls --webhook-configuration=guard", want: "--standalone and --webhook-configuration exclude each other"},
		{
			name: "self without names", args: "--certs-mode=self",
			want: "--certs-service is missing: --certs-mode=self issues the certificate for it\n--webhook-configuration is missing: --certs-mode=self writes the CA into it",
		},
		{name: "self with files", args: "--certs-mode=self --cert-dir=/tls --certs-service=guard --webhook-configuration=guard", want: "--certs-mode=self and --cert-dir exclude each other"},
		{name: "propagation", args: "--cert-dir=/tls --certs-propagation=0s", want: "--certs-propagation 0s: want at least 1s"},
		{name: "argument", args: "--cert-dir=/tls serve", want: `unexpected argument "serve"`},
		{name: "bind address", args: "--cert-dir=/tls --bind-address=localhost", want: `--bind-address "localhost": want an IP address`},
		{name: "port", args: "--cert-dir=/tls --port=0", want: "--port 0: want 1 to 65535"},
		{name: "log level", args: "--cert-dir=/tls --log-level=loud", want: `--log-level "loud": want debug, info, warn or error`},
		{name: "metrics address", args: "--cert-dir=/tls --metrics-bind-address=8080", want: `--metrics-bind-address "8080": want HOST:PORT, :PORT or 0`},
		{name: "health address", args: "--cert-dir=/tls --health-probe-bind-address=:http", want: `--health-probe-bind-address ":http": port "http": want 0 to 65535`},
		{
			name: "namespace", args: "--cert-dir=/tls --configmap-namespace=Kube",
			want: `--configmap-namespace "Kube": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
		},
		{name: "drain", args: "--cert-dir=/tls --drain=-1s", want: "--drain -1s: want zero or more"},
		{name: "a DaemonSet's name", args: "--await-daemonset=A", want: `--await-daemonset "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', ` +
			`and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is ` +
			`'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{name: "awaiting and probing", args: "--await-daemonset=a --probe", want: "--await-daemonset goes with neither --probe nor --standalone"},
		{name: "standing alone with a probe", args: "--standalone --probe", want: "--standalone and --probe exclude each other"},
		{name: "standing alone with a cluster", args: "--cert-dir=/tls --standalone --kubeconfig=k", want: "--standalone and --kubeconfig exclude each other"},
		{name: "all at once", args: "--port=0 --drain=-1s", want: "--cert-dir is missing: the API server speaks only HTTPS to webhooks; without certificate files, name --certs-service and --webhook-configuration\n--port 0: want 1 to 65535\n--drain -1s: want zero or more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseFlags(strings.Fields(tt.args), io.Discard)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var help strings.Builder
	if _, err := parseFlags([]string{"--help"}, &help); !errors.Is(err, pflag.ErrHelp) {
		t.Fatalf("error %v, want ErrHelp", err)
	}
	for _, want := range []string{"webhook --cert-dir DIR [flags]", "--configmap-name name", "(default 10250)"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("help lacks %q:\n%s", want, &help)
		}
	}
}
