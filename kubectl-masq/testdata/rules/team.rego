package ipmasq.payments

deny contains v if {
	some i, cidr in input.config.nonMasqueradeCIDRs
	cidr.cidr == "192.168.0.0/16"
	v := {
		"msg": "payments servers accept no traffic from 192.168.0.0/16",
		"path": cidr.path,
		"hint": "ask the payments team\nor list its subnets",
		"rule": "no-office",
	}
}
