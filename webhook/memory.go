package main

import (
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryFiles are where a container finds its memory limit: of version 2 of control
// groups, and of version 1.
func memoryFiles() []string {
	return []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"}
}

// limitMemory sets the Go memory limit below that of the container where GOMEMLIMIT does
// not say it, and returns the one that holds, in bytes; math.MaxInt64 is none. Rules are
// stopped before they reach it, so that one of them does not end the webhook.
func limitMemory(root fs.FS) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return debug.SetMemoryLimit(-1)
	}
	if limit := containerLimit(root); limit < math.MaxInt64 {
		debug.SetMemoryLimit(limit / 5 * 4) // the program's text and the kernel's share are beside it
	}
	return debug.SetMemoryLimit(-1)
}

// containerLimit is in bytes; math.MaxInt64 where there is none.
func containerLimit(root fs.FS) int64 {
	for _, name := range memoryFiles() {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		// "max" is no limit, and so is what version 1 has instead, which is near 2^63.
		limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && limit > 0 && limit < 1<<60 {
			return limit
		}
	}
	return math.MaxInt64
}
