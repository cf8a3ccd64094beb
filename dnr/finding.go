package dnr

import (
	"fmt"
	"time"
)

// Severity says how much a finding matters.
type Severity uint8

const (
	// Note is worth knowing: clients accept the option.
	Note Severity = iota
	// Warning means that RFC 9463 permits the option, but that some known client refuses it or a part of it.
	Warning
	// Error means that clients which follow RFC 9463 discard the option.
	Error
)

func (s Severity) String() string { return [...]string{"note", "warning", "error"}[s] }

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing that is wrong or unusual about a received option or message.
type Finding struct {
	// Code is stable, for scripts.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// Offset is where it is, in octets from the start of the option's data, or, in a Router Advertisement, of the
	// option.
	Offset int `json:"offset"`
	// Text says in one sentence what is wrong, with the offending value.
	Text string `json:"text"`
	// Err wraps the error that names the broken rule; nil unless Severity is Error.
	Err error `json:"-"`
}

// Codes of findings that make clients discard an instance.
const (
	codeTruncated    = "truncated"
	codeLength       = "length"
	codeEmpty        = "empty"
	codeADN          = "adn"
	codeAddrLength   = "addr-length"
	codeNoAddress    = "no-address"
	CodeSvcParams    = "svcparams"
	CodeHints        = "hints"
	CodePriorityZero = "priority-zero"
	CodePadding      = "padding"

	// CodeASCIIParams are parameters in presentation form, as encoders wrote them before draft-ietf-add-dnr-16.
	CodeASCIIParams = "ascii-svcparams"
	// codeWideAddrLength is an Addr Length of 2 octets in DHCPv4, which the same encoders wrote.
	codeWideAddrLength = "wide-addr-length"
	// codeZeroLengths is an Addr Length of 0 where ADN-only mode ends behind the name: RFC 9463, erratum 7804.
	codeZeroLengths = "zero-lengths"
)

// Codes of findings for which some clients refuse the option, and of notes.
const (
	codeAddressDiscarded = "address-discarded"
	CodeManyAddresses    = "many-addresses"
	CodeADNSyntax        = "adn-syntax"
	CodeADNOnly          = "adn-only"
	CodeNoALPN           = "no-alpn"
	codeNoDoHPath        = "no-dohpath"
	CodeDoHPathSyntax    = "dohpath-syntax"
	CodeMandatory        = "mandatory"
	CodePortZero         = "port-zero"
	codeUnknownKey       = "unknown-key"
	CodeWithdrawn        = "withdrawn"
)

// Inspection is one instance as a lenient reader sees it.
type Inspection struct {
	Instance               // as far as it could be read
	Lifetime time.Duration // of a Router Advertisement's option; 0 withdraws it
	Findings Findings

	readable bool
}

// Readable reports whether the instance could be read to its end, so that its resolver can be tried. Clients may refuse
// it nevertheless: see Err.
func (i Inspection) Readable() bool { return i.readable }

// Err returns why a client that follows RFC 9463 discards the instance, or nil if it does not.
func (i Inspection) Err() error { return i.Findings.Err() }

// Findings is what is wrong with something that was received, in the order in which it was found.
type Findings []Finding

// Err returns the error of the first finding that has one, or nil.
func (fs Findings) Err() error {
	for _, f := range fs {
		if f.Err != nil {
			return f.Err
		}
	}
	return nil
}

// Fail adds a finding of severity Error. rule is the error that names the broken rule, and off the place in octets. The
// formatted text is wrapped by the finding's Err, and so is an error that the format wraps.
func (fs *Findings) Fail(code string, rule error, off int, format string, args ...any) {
	fs.fail("", code, rule, off, format, args...)
}

// fail does that with a prefix of the place in the error, such as "instance 2, ".
func (fs *Findings) fail(where, code string, rule error, off int, format string, args ...any) {
	what := fmt.Errorf(format, args...)
	*fs = append(*fs, Finding{
		Code: code, Severity: Error, Offset: off, Text: what.Error(),
		Err: fmt.Errorf("%w: %soctet %d: %w", rule, where, off, what),
	})
}

// Warn adds a finding of severity Warning.
func (fs *Findings) Warn(code string, off int, format string, args ...any) {
	*fs = append(*fs, Finding{Code: code, Severity: Warning, Offset: off, Text: fmt.Sprintf(format, args...)})
}

// note adds a finding of severity Note.
func (fs *Findings) note(code string, off int, format string, args ...any) {
	*fs = append(*fs, Finding{Code: code, Severity: Note, Offset: off, Text: fmt.Sprintf(format, args...)})
}
