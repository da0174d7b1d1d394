//go:build !windows

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart takes the pages of the program that its start has touched out of this
// process: they would count as resident for good, and most of them are needed for the
// start alone. One that is needed after all comes back from the page cache.
func forgetStart() error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for the program's pages: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("looking for the program's pages: %w", err)
	}
	defer maps.Close() //nolint:errcheck // read only: nothing can be lost
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var begin, end uintptr
		var rights string
		_, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &begin, &end, &rights)
		if err != nil || strings.Contains(rights, "w") || !strings.HasSuffix(lines.Text(), " "+program) {
			continue // what can be written is nowhere else
		}
		if _, _, number := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED); number != 0 {
			return fmt.Errorf("giving back pages of the program: %w", number)
		}
	}
	return lines.Err()
}
