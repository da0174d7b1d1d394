//go:build race

package policy

// The race detector allocates, and drops from pools at random.
const raceDetector = true
