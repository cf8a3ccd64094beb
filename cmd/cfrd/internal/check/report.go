package check

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// Status is the outcome of a step.
type Status string

const (
	OK   Status = "ok"
	Fail Status = "fail" // a client would stumble over this
	Skip Status = "skip" // could not be tried, or does not apply
)

// Step is one thing that a client does, and what came of it.
type Step struct {
	Name   string `json:"step"`             // stable, for scripts
	Target string `json:"target,omitempty"` // the address, record or name it was done to
	Status Status `json:"status"`
	Detail string `json:"detail"` // one sentence
}

// Report is what was found. Its JSON field names are stable.
type Report struct {
	Resolver     string        `json:"resolver"`
	OK           bool          `json:"ok"`
	FirstFailure string        `json:"first_failure,omitempty"` // the name of a step
	Steps        []Step        `json:"steps"`
	Designations []Designation `json:"designations"`
}

// Designation is one record of the discovery answer.
type Designation struct {
	Priority  uint16       `json:"priority"`
	Target    string       `json:"target"`
	ALPN      []string     `json:"alpn,omitempty"`
	Port      uint16       `json:"port,omitempty"` // 0 means the default one
	DoHPath   string       `json:"dohpath,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // of Target, from the Additional section
	Relay     bool         `json:"relay,omitempty"`
}

// add adds a step. The first one that fails is remembered.
func (r *Report) add(s Status, name, target, format string, args ...any) {
	r.Steps = append(r.Steps, Step{Name: name, Target: target, Status: s, Detail: fmt.Sprintf(format, args...)})
	if s == Fail && r.FirstFailure == "" {
		r.FirstFailure = name
	}
	r.OK = r.FirstFailure == ""
}

// ok adds a step that holds.
func (r *Report) ok(name, target, format string, args ...any) {
	r.add(OK, name, target, format, args...)
}

// fail adds a step over which a client would stumble.
func (r *Report) fail(name, target, format string, args ...any) {
	r.add(Fail, name, target, format, args...)
}

// skip adds a step that could not be tried, or does not apply.
func (r *Report) skip(name, target, format string, args ...any) {
	r.add(Skip, name, target, format, args...)
}

// Err returns nil if every step that could be tried held, and else how many did not and which was the first.
func (r *Report) Err() error {
	if r.OK {
		return nil
	}
	failed := 0
	for _, s := range r.Steps {
		if s.Status == Fail {
			failed++
		}
	}
	return fmt.Errorf("check %s: %d of %d steps do not hold; a client stumbles first over %s",
		r.Resolver, failed, len(r.Steps), r.FirstFailure)
}

// WriteTable writes a line for each step, for people.
func (r *Report) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.Steps {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Status, s.Name, printable(s.Target), printable(s.Detail))
	}
	return tw.Flush()
}

// printable escapes characters that control a terminal or would break the table, because the text may be hostile.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// WriteJSON writes r, for programs.
func (r *Report) WriteJSON(w io.Writer) error { return writeJSON(w, r) }

// writeJSON writes v with indentation.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
