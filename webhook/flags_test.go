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
		port:     10250,
		certDir:  "/tls",
		target:   target{"kube-system", "ip-masq-agent"},
		metrics:  ":8080",
		health:   ":8081",
		drain:    10 * time.Second,
		logLevel: slog.LevelInfo,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{}, target{})); diff != "" {
		t.Errorf("defaults differ (-want +got):\n%s", diff)
	}

	got, err = parseFlags(strings.Fields("--bind-address=::1 --port 8443 --cert-dir /tls --params p.yaml --policy-dir a --policy-dir b "+
		"--configmap-namespace infra --configmap-name masq --kubeconfig k --metrics-bind-address 0 --health-probe-bind-address 127.0.0.1:0 "+
		"--drain 0s --log-level debug"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want = options{
		bindAddress: "::1",
		port:        8443,
		certDir:     "/tls",
		kubeconfig:  "k",
		params:      "p.yaml",
		policyDirs:  []string{"a", "b"},
		target:      target{"infra", "masq"},
		metrics:     "0",
		health:      "127.0.0.1:0",
		logLevel:    slog.LevelDebug,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{}, target{})); diff != "" {
		t.Errorf("options differ (-want +got):\n%s", diff)
	}
}

func TestParseFlagsRefuses(t *testing.T) {
	tests := []struct{ name, args, want string }{
		{name: "unknown flag", args: "--cert-dir=/tls --certs=/tls", want: "unknown flag: --certs"},
		{name: "no certificate", args: "", want: "--cert-dir is missing: the API server speaks only HTTPS to webhooks"},
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
		{name: "standing alone with a cluster", args: "--cert-dir=/tls --standalone --kubeconfig=k", want: "--standalone and --kubeconfig exclude each other"},
		{name: "all at once", args: "--port=0 --drain=-1s", want: "--cert-dir is missing: the API server speaks only HTTPS to webhooks\n--port 0: want 1 to 65535\n--drain -1s: want zero or more"},
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
	for _, want := range []string{"Usage: webhook --cert-dir DIR", "--configmap-name name", "(default 10250)"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("help lacks %q:\n%s", want, &help)
		}
	}
}
