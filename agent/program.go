package main

import (
	"runtime/debug"
	"strings"
	"time"
)

const defaultConfigPath = "/etc/config/ip-masq-agent" // where upstream manifests mount it

// Times of the loop, whatever it keeps in step.
const (
	// A change of the file is acted on when it has been quiet for so long, since an
	// editor may truncate the file before it writes it; but a stream of changes does
	// not put the first one off for longer than patience.
	quiet    = 10 * time.Millisecond
	patience = 10 * quiet

	// After a failure of the kernel the agent tries again in firstRetry, and then in
	// twice the time, up to lastRetry or the configuration's own interval.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second

	// maxTold bounds how many problems of one text are logged and shown; metrics count
	// them all.
	maxTold = 20
)

// version is set by the linker: -X main.version=v1.2.3.
var version = unversioned

const unversioned = "dev"

// usageError is a call that can never work, so it is worth telling apart from a
// node on which it does not work now.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// buildVersion is what the linker was told, or else what the Go command knew: the
// version of the module, or the commit.
func buildVersion() string {
	if version != unversioned {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return unversioned + "-" + setting.Value
		}
	}
	return version
}

// twoDashes writes -flag as --flag: the upstream agent takes both.
func twoDashes(args []string) []string {
	written := make([]string, 0, len(args))
	for i, arg := range args {
		if arg == "--" {
			return append(written, args[i:]...)
		}
		if name, _, _ := strings.Cut(arg, "="); len(arg) > 1 && arg[0] == '-' && arg[1] != '-' && name != "-h" && name != "-o" {
			arg = "-" + arg
		}
		written = append(written, arg)
	}
	return written
}
