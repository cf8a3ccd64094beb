package main

import "fmt"

// mode says which of the services one process runs. It is a pflag.Value.
type mode uint8

const (
	modeAll mode = iota
	modeResolver
	modeRelay
)

var modeNames = [...]string{modeAll: "all", modeResolver: "resolver", modeRelay: "relay"}

func (m mode) String() string { return modeNames[m] }

// Set implements pflag.Value.
func (m *mode) Set(s string) error {
	for i, name := range modeNames {
		if s == name {
			*m = mode(i)
			return nil
		}
	}
	return fmt.Errorf("must be all, resolver or relay")
}

// Type implements pflag.Value.
func (m mode) Type() string { return "mode" }

// resolves reports whether DNS is served.
func (m mode) resolves() bool { return m != modeRelay }

// relays reports whether flows are relayed.
func (m mode) relays() bool { return m != modeResolver }
