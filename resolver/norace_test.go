//go:build !race

package resolver

const raceDetector = false
