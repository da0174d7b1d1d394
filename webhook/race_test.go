//go:build race

package main

// The race detector makes compiling rules ten times as slow, and keeps memory of its own.
const raceDetector = true
