package policy

// Params is what a cluster owner sets: cluster ranges, agent flags, and for each
// rule its action and bounds.
type Params struct {
	// fields are the owner's to define (policy), the file format is:
	//
	//	cluster:                       # beside what the API knows; absent and unknown to the API: unknown
	//	  nodeCIDRs: [192.168.0.0/24]
	//	  podCIDRs: [10.244.0.0/16]
	//	  serviceCIDRs: [10.96.0.0/12]
	//	agent:                         # the flags the agents run with
	//	  ipv6: false                  # --enable-ipv6
	//	  reservedRanges: false        # --nomasq-all-reserved-ranges
	//	requireClusterRanges: false    # true: unknown ranges are a denial instead of a warning
	//	rules:
	//	  resync-bounds: {action: deny, min: 5s, max: 1h}
	//	  cidr-limit: {action: deny, max: 64}
	//	custom: {}                     # handed to custom rules as input.params.custom
}

// ParseParams reads a params file (YAML); unknown keys, rules and actions are errors
// that name them. No text is the default Params.
func ParseParams(_ []byte) (Params, error) { panic("to be built") }
