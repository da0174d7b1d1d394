package ipmasq.metadata_server_test

import data.ipmasq.metadata_server

_input(link_local, spared, excepted) := {"config": {
	"masqLinkLocal": link_local,
	"nonMasqueradeCIDRs": [{"cidr": cidr, "path": $"nonMasqueradeCIDRs[{i}]"} | some i, cidr in spared],
	"masqueradeCIDRs": [{"cidr": cidr, "path": $"masqueradeCIDRs[{i}]"} | some i, cidr in excepted],
}}

test_allow_the_default if {
	metadata_server.deny == set() with input as _input(false, ["10.0.0.0/8"], ["10.7.0.0/16"])
}

test_allow_listed if {
	metadata_server.deny == set() with input as _input(true, ["10.0.0.0/8", "169.254.169.254/32"], [])
}

test_allow_listed_within_an_exception if {
	spared := ["169.254.0.0/16", "169.254.169.254/32"]
	metadata_server.deny == set() with input as _input(true, spared, ["169.254.169.0/24"])
}

test_allow_wider_exception if {
	metadata_server.deny == set() with input as _input(false, ["0.0.0.0/0"], ["169.0.0.0/8"])
}

test_deny_wider_exception if {
	count(metadata_server.deny) == 1 with input as _input(true, ["0.0.0.0/0"], ["169.0.0.0/8"])
}

test_deny_link_local if {
	metadata_server.deny == {{
		"rule": "metadata-server-spared",
		"path": "masqLinkLocal",
		"msg": "masqLinkLocal masquerades traffic to 169.254.169.254",
		"hint": "drop the key, or add 169.254.169.254/32 to nonMasqueradeCIDRs",
	}} with input as _input(true, ["10.0.0.0/8", "169.254.170.2/32"], [])
}

test_deny_exception if {
	metadata_server.deny == {{
		"rule": "metadata-server-spared",
		"path": "masqueradeCIDRs[0]",
		"msg": "169.254.169.0/24 masquerades traffic to 169.254.169.254",
		"hint": "leave the exception out, or add 169.254.169.254/32 to nonMasqueradeCIDRs",
	}} with input as _input(true, ["169.254.0.0/16"], ["169.254.169.0/24"])
}

test_missing_config if {
	metadata_server.deny == set() with input as {"config": null}
}
