package main

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	for _, test := range []struct {
		name        string
		environment string // GOMEMLIMIT, which the runtime has read
		files       map[string]string
		want        int64
	}{
		{name: "no control groups", want: math.MaxInt64},
		{name: "version 2", files: map[string]string{"sys/fs/cgroup/memory.max": "268435456\n"}, want: 214748364},
		{name: "version 2 without a limit", files: map[string]string{"sys/fs/cgroup/memory.max": "max\n"}, want: math.MaxInt64},
		{name: "version 1", files: map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n"}, want: 214748364},
		{name: "version 1 without a limit", files: map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, want: math.MaxInt64},
		{name: "GOMEMLIMIT", environment: "1GiB", files: map[string]string{"sys/fs/cgroup/memory.max": "268435456\n"}, want: math.MaxInt64},
	} {
		t.Run(test.name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			defer debug.SetMemoryLimit(before)
			t.Setenv("GOMEMLIMIT", test.environment)
			root := fstest.MapFS{}
			for name, text := range test.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := limitMemory(root); got != test.want {
				t.Errorf("limit %d, want %d", got, test.want)
			}
		})
	}
}
