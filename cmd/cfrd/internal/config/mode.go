package config

import "fmt"

// Mode says which of the services one process runs. It is a pflag.Value.
type Mode uint8

// Modes, by what the process runs.
const (
	ModeAll      Mode = iota // both of these
	ModeResolver             // DNS only
	ModeRelay                // no DNS at all
)

var modeNames = [...]string{ModeAll: "all", ModeResolver: "resolver", ModeRelay: "relay"}

// String returns the word of the flag.
func (m Mode) String() string { return modeNames[m] }

// Set implements pflag.Value.
func (m *Mode) Set(s string) error {
	for i, name := range modeNames {
		if s == name {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("must be all, resolver or relay")
}

// Type implements pflag.Value.
func (m Mode) Type() string { return "mode" }

// Resolves reports whether DNS is served.
func (m Mode) Resolves() bool { return m != ModeRelay }

// Relays reports whether flows are relayed.
func (m Mode) Relays() bool { return m != ModeResolver }
