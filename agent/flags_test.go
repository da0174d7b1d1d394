package main

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
	"github.com/ip-masq-guard/ip-masq-guard/agent/iptables"
	"github.com/ip-masq-guard/ip-masq-guard/agent/ruleset"
)

func TestParseFlags(t *testing.T) {
	plain := func(change func(*options)) options {
		o := options{
			rules:      ruleset.Options{Chain: "IP-MASQ-AGENT", RandomFully: true, Sets: true, SetThreshold: 64},
			configPath: "/etc/config/ip-masq-agent", metricsAddress: ":9178",
			mechanism: "iptables", iptables: "auto", watchKernel: true, logLevel: slog.LevelInfo,
		}
		if change != nil {
			change(&o)
		}
		return o
	}
	for _, test := range []struct {
		name string
		args []string
		want options
	}{
		{"none", nil, plain(nil)},
		{"every one", []string{
			"--masq-chain=IP-MASQ", "--nomasq-all-reserved-ranges", "--enable-ipv6", "--random-fully=false",
			"--source-cidrs=10.244.0.0/16,fd00:10:244::/48", "--out-interfaces=eth0,bond+", "--nomasq-multicast", "--set-threshold=16384",
			"--to-ports=1024-29999,32768-65535", "--config-path", "/tmp/x", "--once", "--dry-run",
			"--backend=nftables", "--iptables-backend=legacy", "--state-dir=/var/lib/x", "--metrics-bind-address=127.0.0.1:1", "--log-level=debug",
			"--watch-kernel=false",
		}, options{
			config: config.Options{ReservedRanges: true, IPv6: true},
			rules: ruleset.Options{
				Chain:          "IP-MASQ",
				ToPorts:        []ruleset.PortRange{{First: 1024, Last: 29999}, {First: 32768, Last: 65535}},
				Sources:        []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
				Interfaces:     []string{"eth0", "bond+"},
				SpareMulticast: true,
				Sets:           true,
				SetThreshold:   16384,
			},
			toPorts: "1024-29999,32768-65535", configPath: "/tmp/x", stateDir: "/var/lib/x",
			metricsAddress: "127.0.0.1:1", mechanism: byNFTables, iptables: iptables.Legacy, logLevel: slog.LevelDebug, once: true, dryRun: true,
		}},
		{"as upstream manifests write them", []string{
			"-masq-chain=IP-MASQ", "-nomasq-all-reserved-ranges", "--v=2", "-v", "4", "-logtostderr", "--logtostderr=false",
			"--alsologtostderr", "--stderrthreshold=INFO", "--vmodule=a=1", "--log_dir=/x", "--log-dir=/x", "--log_file=/dev/stdout",
			"--log_file_max_size=0", "--log_backtrace_at=:0", "--skip_headers", "--add_dir_header", "--skip-log-headers",
			"--one_output", "--log-flush-frequency=5s", "--logging-format=json",
		}, plain(func(o *options) {
			o.rules.Chain = "IP-MASQ"
			o.config.ReservedRanges = true
		})},
		{"no server", []string{"--metrics-bind-address=0"}, plain(func(o *options) { o.metricsAddress = "0" })},
		{"IPv6 address", []string{"--metrics-bind-address=[::1]:9"}, plain(func(o *options) { o.metricsAddress = "[::1]:9" })},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseFlags(test.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(options{}), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("options differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWrongUsage(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want []string // each in a line of its own, in this order
	}{
		{"unknown flag", []string{"--masq-chian=X"}, []string{"unknown flag: --masq-chian; --help lists the flags"}},
		{"no value", []string{"--config-path"}, []string{"flag needs an argument: --config-path; --help lists the flags"}},
		{"no switch value", []string{"--enable-ipv6", "false"}, []string{
			`"false" is no flag and no command (status, plan, cleanup, as the first word); values of switches are written --flag=value`,
		}},
		{"built-in chain", []string{"--masq-chain=POSTROUTING"}, []string{`--masq-chain: checking chain name "POSTROUTING": `}},
		{"long chain", []string{"--masq-chain=A1234567890123456789012345678"}, []string{`--masq-chain: checking chain name "A1234567890123456789012345678": `}},
		{"reversed ports", []string{"--to-ports=9-8"}, []string{`--to-ports: reading port range 1 of "9-8": `}},
		{"IPv6 source without IPv6", []string{"--source-cidrs=10.0.0.0/8,fd00::/8"}, []string{
			"--source-cidrs: fd00::/8 is IPv6, whose rules this agent does not hold; add --enable-ipv6 or leave it out",
		}},
		{"everything at once", []string{
			"--source-cidrs=10.0.0.1/8", "--out-interfaces=eth0,", "--set-threshold=16385",
			"extra", "--masq-chain=", "--to-ports=0", "--config-path=/etc/config/", "--backend=nft", "--iptables-backend=ebtables",
			"--metrics-bind-address=9178", "--log-level=loud",
		}, []string{
			`"extra" is no flag`,
			`--masq-chain: checking chain name "": `,
			`--to-ports: reading port range 1 of "0": `,
			`--source-cidrs: reading source 1 of "10.0.0.1/8": "10.0.0.1/8" has host bits set; write 10.0.0.0/8`,
			`--out-interfaces: reading interface 2 of "eth0,": the name is empty; separate names by single commas`,
			`--set-threshold=16385: not in bounds; write a number from 0, always an ipset, to 16384, never one`,
			`--config-path="/etc/config/": not a file's path; name the file itself, as in /etc/config/ip-masq-agent`,
			`--backend="nft": unknown backend; write iptables, nftables or auto`,
			`--iptables-backend="ebtables": unknown backend; write auto, nft or legacy`,
			`--metrics-bind-address="9178": not host:port: address 9178: missing port in address; ` +
				`write :9178, 127.0.0.1:9178, [::1]:9178, or 0 for none`,
			`--log-level="loud": unknown level; write debug, info, warn or error`,
		}},
		{"port out of range", []string{"--metrics-bind-address=:65536"}, []string{
			`--metrics-bind-address=":65536": "65536" is no port; write a number from 1 to 65535, as in :9178`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, err := call(t, test.args...)
			if err == nil {
				t.Fatal("no error")
			}
			if exitCode(err) != 2 {
				t.Errorf("exit code %d, want 2", exitCode(err))
			}
			if stdout+stderr != "" {
				t.Errorf("printed %q and %q", stdout, stderr)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("%d lines, want %d:\n%v", len(lines), len(test.want), err)
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, test.want[i]) {
					t.Errorf("line %d: %q, want it to begin with %q", i+1, line, test.want[i])
				}
			}
		})
	}
}
