package dnr

import (
	"fmt"
	"time"
)

// Severity says how much a finding matters.
type Severity uint8

const (
	// Note is worth knowing: clients take the option.
	Note Severity = iota
	// Warning means that RFC 9463 lets the option pass, but that some known client refuses it or a part of it.
	Warning
	// Error means that clients which follow RFC 9463 discard the option.
	Error
)

func (s Severity) String() string { return [...]string{"note", "warning", "error"}[s] }

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing that is odd about a received option.
type Finding struct {
	// Code is stable, for scripts: one of the Code… constants.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// Offset is where it is, in octets from the start of the option's data, or, in a Router Advertisement, of the
	// option.
	Offset int `json:"offset"`
	// Text says in one sentence what is wrong, with the value that is.
	Text string `json:"text"`
	// Err wraps the error that names the broken rule; nil unless Severity is Error.
	Err error `json:"-"`
}

// Codes of findings that make clients discard an instance.
const (
	CodeTruncated    = "truncated"
	CodeLength       = "length"
	CodeEmpty        = "empty"
	CodeADN          = "adn"
	CodeAddrLength   = "addr-length"
	CodeNoAddress    = "no-address"
	CodeSvcParams    = "svcparams"
	CodeHints        = "hints"
	CodePriorityZero = "priority-zero"
	CodePadding      = "padding"

	// CodeASCIIParams are parameters in presentation form, as encoders wrote them before draft-ietf-add-dnr-16.
	CodeASCIIParams = "ascii-svcparams"
	// CodeWideAddrLength is an Addr Length of 2 octets in DHCPv4, which the same encoders wrote.
	CodeWideAddrLength = "wide-addr-length"
	// CodeZeroLengths is an Addr Length of 0 where ADN-only mode ends behind the name: RFC 9463, erratum 7804.
	CodeZeroLengths = "zero-lengths"
)

// Codes of findings that some clients take badly, and of notes.
const (
	CodeAddressDiscarded = "address-discarded"
	CodeManyAddresses    = "many-addresses"
	CodeADNSyntax        = "adn-syntax"
	CodeADNOnly          = "adn-only"
	CodeNoALPN           = "no-alpn"
	CodeNoDoHPath        = "no-dohpath"
	CodeDoHPathSyntax    = "dohpath-syntax"
	CodeMandatory        = "mandatory"
	CodePortZero         = "port-zero"
	CodeUnknownKey       = "unknown-key"
	CodeWithdrawn        = "withdrawn"
)

// Inspection is what a lenient reader makes of one instance.
type Inspection struct {
	Instance               // as far as it could be read
	Lifetime time.Duration // of a Router Advertisement's option; 0 withdraws it
	Findings []Finding     // in the order in which they came up

	readable bool
}

// Readable reports whether the instance could be read to its end, so that it can be tried. Clients may still refuse
// it: see Err.
func (i Inspection) Readable() bool { return i.readable }

// Err returns why a client that follows RFC 9463 discards the instance, or nil if it does not.
func (i Inspection) Err() error {
	for _, f := range i.Findings {
		if f.Err != nil {
			return f.Err
		}
	}
	return nil
}

// findings collects what is wrong while something is decoded.
type findings struct {
	list  []Finding
	where string // such as "instance 2, "; prefix of the place in errors
}

// fail adds what makes clients discard the instance; rule is the error that names it. An error that format wraps is
// wrapped by that of the finding.
func (fs *findings) fail(code string, rule error, off int, format string, args ...any) {
	what := fmt.Errorf(format, args...)
	fs.list = append(fs.list, Finding{
		Code: code, Severity: Error, Offset: off, Text: what.Error(),
		Err: fmt.Errorf("%w: %soctet %d: %w", rule, fs.where, off, what),
	})
}

func (fs *findings) warn(code string, off int, format string, args ...any) {
	fs.list = append(fs.list, Finding{Code: code, Severity: Warning, Offset: off, Text: fmt.Sprintf(format, args...)})
}

func (fs *findings) note(code string, off int, format string, args ...any) {
	fs.list = append(fs.list, Finding{Code: code, Severity: Note, Offset: off, Text: fmt.Sprintf(format, args...)})
}
