# METADATA
# title: What the payments team asks for
# related_resources:
#   - ref: https://example.com/payments
package ipmasq.payments

# The partners allow-list node addresses, so traffic to them is masqueraded.
deny contains violation if {
	some range in input.config.nonMasqueradeCIDRs
	net.cidr_intersects(range.cidr, "198.51.100.0/24")
	violation := {
		"rule": "partners-masqueraded",
		"path": range.path,
		"msg": $"{range.cidr} spares the partners in 198.51.100.0/24, who know nodes only",
		"hint": "leave 198.51.100.0/24 out",
		"details": {"partner": "198.51.100.0/24"},
	}
}

warn contains "the change is made on a weekend" if {
	time.weekday(time.parse_rfc3339_ns(input.request.time)) in {"Saturday", "Sunday"}
}
