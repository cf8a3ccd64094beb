//go:build race

package resolver

// raceDetector says that pools lose on purpose what they are given, and that conversions allocate.
const raceDetector = true
