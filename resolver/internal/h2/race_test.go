//go:build race

package h2

// raceDetector says that pools lose on purpose what they are given, and that conversions allocate.
const raceDetector = true
