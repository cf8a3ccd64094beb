package main

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

// status is the outcome of a step.
type status string

const (
	statusOK   status = "ok"
	statusFail status = "fail" // a client would stumble over this
	statusSkip status = "skip" // could not be tried, or does not apply
)

// step is one thing that a client does, and what came of it.
type step struct {
	Name   string `json:"step"`             // stable, for scripts
	Target string `json:"target,omitempty"` // the address, record or name it was done to
	Status status `json:"status"`
	Detail string `json:"detail"` // one sentence
}

// report is what `cfrd check` found. Its JSON field names are stable.
type report struct {
	Resolver     string        `json:"resolver"`
	OK           bool          `json:"ok"`
	FirstFailure string        `json:"first_failure,omitempty"` // the name of a step
	Steps        []step        `json:"steps"`
	Designations []designation `json:"designations"`
}

// designation is one record of the discovery answer.
type designation struct {
	Priority  uint16       `json:"priority"`
	Target    string       `json:"target"`
	ALPN      []string     `json:"alpn,omitempty"`
	Port      uint16       `json:"port,omitempty"` // 0 means the default one
	DoHPath   string       `json:"dohpath,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // of Target, from the Additional section
	Relay     bool         `json:"relay,omitempty"`
}

func (r *report) add(s status, name, target, format string, args ...any) {
	r.Steps = append(r.Steps, step{Name: name, Target: target, Status: s, Detail: fmt.Sprintf(format, args...)})
	if s == statusFail && r.FirstFailure == "" {
		r.FirstFailure = name
	}
	r.OK = r.FirstFailure == ""
}

func (r *report) ok(name, target, format string, args ...any) {
	r.add(statusOK, name, target, format, args...)
}

func (r *report) fail(name, target, format string, args ...any) {
	r.add(statusFail, name, target, format, args...)
}

func (r *report) skip(name, target, format string, args ...any) {
	r.add(statusSkip, name, target, format, args...)
}

// err is what the command returns: nil if every step that could be tried held.
func (r *report) err() error {
	if r.OK {
		return nil
	}
	failed := 0
	for _, s := range r.Steps {
		if s.Status == statusFail {
			failed++
		}
	}
	return fmt.Errorf("check %s: %d of %d steps do not hold; a client stumbles first over %s",
		r.Resolver, failed, len(r.Steps), r.FirstFailure)
}

func (r *report) writeTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range r.Steps {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Status, s.Name, printable(s.Target), printable(s.Detail))
	}
	return tw.Flush()
}

// printable escapes what would do something to a terminal or to the table: the text may come from anybody.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func (r *report) writeJSON(w io.Writer) error { return writeJSON(w, r) }

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
