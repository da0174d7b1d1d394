package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// upstreamConfig is the upstream agent's type; it decodes a text onto the defaults.
type upstreamConfig struct {
	NonMasqueradeCIDRs []string         `json:"nonMasqueradeCIDRs"`
	CIDRLimit          int              `json:"cidrLimit"`
	MasqLinkLocal      bool             `json:"masqLinkLocal"`
	MasqLinkLocalIPv6  bool             `json:"masqLinkLocalIPv6"`
	ResyncInterval     upstreamDuration `json:"resyncInterval"`
}

// upstreamDuration decodes as metav1.Duration does.
type upstreamDuration time.Duration

func (d *upstreamDuration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(s)
	*d = upstreamDuration(parsed)
	return err
}

func upstreamDefaults() upstreamConfig {
	return upstreamConfig{
		NonMasqueradeCIDRs: []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"},
		CIDRLimit:          64,
		ResyncInterval:     upstreamDuration(time.Minute),
	}
}

func isJSON(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeftFunc(text, unicode.IsSpace), []byte("{"))
}

// upstreamParse does what the upstream agent with --enable-ipv6 does with a text,
// with the very libraries that it uses.
func upstreamParse(text []byte) (c upstreamConfig, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the loader panics: %v", cause)
		}
	}()
	c = upstreamDefaults()
	if !isJSON(text) {
		if text, err = yaml.YAMLToJSON(text); err != nil {
			return c, err
		}
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, err
	}
	if len(c.NonMasqueradeCIDRs) > c.CIDRLimit {
		return c, errors.New("too many CIDRs")
	}
	for _, s := range c.NonMasqueradeCIDRs {
		ip, network, err := net.ParseCIDR(s) //nolint:forbidigo // it is what the upstream agent uses
		if err != nil {
			return c, err
		}
		if !ip.Equal(network.IP) {
			return c, fmt.Errorf("%s is not aligned", s)
		}
	}
	return c, nil
}

// upstreamStrict refuses what a strict loader would that knows our keys too: unknown,
// repeated and wrong-case keys.
func upstreamStrict(text []byte) (c upstreamConfig, err error) {
	ours := struct {
		upstreamConfig

		MasqueradeCIDRs []string `json:"masqueradeCIDRs"`
		NodeOverrides   []struct {
			MatchLabels        map[string]string `json:"matchLabels"`
			NonMasqueradeCIDRs []string          `json:"nonMasqueradeCIDRs"`
			MasqueradeCIDRs    []string          `json:"masqueradeCIDRs"`
			MasqLinkLocal      bool              `json:"masqLinkLocal"`
			MasqLinkLocalIPv6  bool              `json:"masqLinkLocalIPv6"`
		} `json:"nodeOverrides"`
	}{upstreamConfig: upstreamDefaults()}
	if !isJSON(text) {
		if text, err = yaml.YAMLToJSONStrict(text); err != nil {
			return ours.upstreamConfig, err
		}
	}
	strict, err := kjson.UnmarshalStrict(text, &ours)
	return ours.upstreamConfig, errors.Join(append(strict, err)...)
}

// String is for messages of tests.
func (c upstreamConfig) String() string {
	return fmt.Sprintf("[%s] limit %d link-local %t %t resync %s", strings.Join(c.NonMasqueradeCIDRs, " "),
		c.CIDRLimit, c.MasqLinkLocal, c.MasqLinkLocalIPv6, time.Duration(c.ResyncInterval))
}

// ciliumConfig is the type of Cilium's pkg/ipmasq.
type ciliumConfig struct {
	NonMasqCIDRs      []ciliumNet `json:"nonMasqueradeCIDRs"`
	MasqLinkLocal     bool        `json:"masqLinkLocal"`
	MasqLinkLocalIPv6 bool        `json:"masqLinkLocalIPv6"`
}

// ciliumNet decodes as its Ipnet does.
type ciliumNet netip.Prefix

func (n *ciliumNet) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return fmt.Errorf("invalid CIDR: %s", b)
	}
	prefix, err := netip.ParsePrefix(strings.Trim(string(b), `"`))
	*n = ciliumNet(prefix.Masked())
	return err
}

// ciliumParse does what Cilium does with a text that is not empty.
func ciliumParse(text []byte) (c ciliumConfig, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the loader panics: %v", cause)
		}
	}()
	if !isJSON(text) {
		if text, err = yaml.YAMLToJSON(text); err != nil {
			return c, err
		}
	}
	return c, json.Unmarshal(text, &c)
}
