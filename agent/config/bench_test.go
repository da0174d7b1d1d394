package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ip-masq-guard/ip-masq-guard/agent/config"
)

// textOf is a configuration with this many CIDRs.
func textOf(cidrs int) string {
	var b strings.Builder
	b.WriteString("nonMasqueradeCIDRs:\n")
	for i := range cidrs {
		fmt.Fprintf(&b, "  - 10.%d.%d.0/24\n", i/256, i%256)
	}
	fmt.Fprintf(&b, "masqLinkLocal: false\nresyncInterval: 60s\ncidrLimit: %d\n", max(64, cidrs))
	return b.String()
}

func BenchmarkParse(b *testing.B) {
	shapes := []struct {
		name string
		text func(cidrs int) string
	}{
		{"plain", textOf},
		{"yaml", func(cidrs int) string { return "---\n" + textOf(cidrs) }}, // not plain: through the YAML parser
		{"json", jsonOf},
	}
	for _, shape := range shapes {
		for _, cidrs := range []int{4, 64, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", shape.name, cidrs), func(b *testing.B) {
				text := []byte(shape.text(cidrs))
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if _, problems := config.Parse(text); len(problems) > 0 {
						b.Fatal(problems)
					}
				}
			})
		}
	}
}

func jsonOf(cidrs int) string {
	list := make([]string, cidrs)
	for i := range list {
		list[i] = fmt.Sprintf("%q", fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
	}
	return fmt.Sprintf(`{"nonMasqueradeCIDRs": [%s], "masqLinkLocal": false, "cidrLimit": %d}`, strings.Join(list, ", "), max(64, cidrs))
}
