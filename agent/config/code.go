package config

// Code names a kind of Problem; it is stable, since rules and metrics use it.
type Code string

// Codes of the text as a whole and of its syntax.
const (
	CodeTooLarge         Code = "too-large"         // fatal: more than MaxBytes
	CodeEncoding         Code = "encoding"          // fatal: not UTF-8
	CodeControlCharacter Code = "control-character" // fatal: a character that YAML does not allow
	CodeSyntax           Code = "syntax"            // fatal: neither YAML nor JSON; what follows was not read
	CodeTab              Code = "tab"               // fatal: a tab indents a line
	CodeTooDeep          Code = "too-deep"          // fatal: nested deeper than MaxDepth
	CodeAliases          Code = "aliases"           // fatal: an alias contains itself, or aliases expand too far
	CodeTag              Code = "tag"               // fatal: a YAML tag such as !!binary that no configuration needs
	CodeNotFinite        Code = "not-finite"        // fatal: .nan or .inf, which JSON cannot express, anywhere in the text
	CodeNotAMapping      Code = "not-a-mapping"     // fatal: a list or a scalar where the keys should be

	CodeEmpty          Code = "empty"           // suspicious: no text but blanks, comments or null, so every default applies
	CodeSecondDocument Code = "second-document" // suspicious: agents read the first YAML document only
	CodeTrailingSpace  Code = "trailing-space"  // suspicious: kubectl edit shows a text with blanks at line ends as one quoted line
)

// Codes of keys.
const (
	CodeUnknownKey     Code = "unknown-key"     // suspicious: agents ignore it
	CodeIgnoredKey     Code = "ignored-key"     // suspicious: agents read it, the consumer that the text is for does not
	CodeKeyCase        Code = "key-case"        // suspicious: works, but only since agents ignore case
	CodeDuplicateKey   Code = "duplicate-key"   // suspicious: the same key again wins
	CodePastedManifest Code = "pasted-manifest" // suspicious: a whole ConfigMap, or its key config, inside the value
	CodeNullValue      Code = "null-value"      // suspicious: a boolean or number without a value keeps its default
)

// Codes of values.
const (
	CodeWrongType    Code = "wrong-type"     // fatal: text for a number, a number for a duration and the like
	CodeNullElement  Code = "null-element"   // fatal: the upstream agent puts a default in its place
	CodeTooManyCIDRs Code = "too-many-cidrs" // fatal: more than MaxCIDRs

	CodeTooManyOverrides Code = "too-many-overrides" // fatal: more than MaxOverrides

	CodeBadCIDR         Code = "bad-cidr"          // fatal: not a CIDR
	CodeHostBits        Code = "host-bits"         // fatal, for Cilium suspicious: a CIDR whose address lies inside the range
	CodeMaskLeadingZero Code = "mask-leading-zero" // fatal: 10.0.0.0/08, which iptables refuses
	CodeIPv4Mapped      Code = "ipv4-mapped"       // fatal, for Cilium suspicious: ::ffff:10.0.0.0/104, which iptables refuses
	CodeIPv6Disabled    Code = "ipv6-disabled"     // fatal: an IPv6 CIDR while the agent runs without --enable-ipv6
	CodeCIDRLimit       Code = "cidr-limit"        // fatal: more CIDRs than cidrLimit
	CodeContradiction   Code = "contradiction"     // fatal: the same range is spared and excepted
	CodeNoLabels        Code = "no-labels"         // fatal: an override that does not say for which nodes it is
	CodeBadLabel        Code = "bad-label"         // fatal: a label that no node can have
	CodeBadDuration     Code = "bad-duration"      // fatal: not a Go duration
	CodeResyncTooShort  Code = "resync-too-short"  // fatal: below a second the upstream agent spins

	CodeYAML11Bool  Code = "yaml11-bool"           // suspicious: yes, on and the like are booleans in YAML 1.1 only
	CodeOctalNumber Code = "octal-number"          // suspicious: 010 is 8
	CodeUnreachable Code = "unreachable-override"  // suspicious: an earlier override matches first, whatever the node
	CodeIneffective Code = "ineffective-exception" // suspicious: an exception where nothing is spared
)

// Codes of several files together.
const (
	CodeTooManyFiles  Code = "too-many-files" // fatal, for each file beyond MaxFiles
	CodeFilesDisagree Code = "files-disagree" // suspicious: another file says otherwise, and one of them wins
)

// CodeTooManyProblems stands last, for the problems that are not listed: fatal if
// one of them is.
const CodeTooManyProblems Code = "too-many-problems"

// MaxProblems bounds how many problems Parse lists.
const MaxProblems = 1000
