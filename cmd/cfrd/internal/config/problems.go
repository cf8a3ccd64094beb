package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Key  string // its path, such as "steer.rules[1].suffixes"; empty if it is about the file as a whole
	Text string // what is wrong and what would be right
}

// Problems is everything that is wrong with the configuration, as an error of one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Text
		if p.Key != "" {
			lines[i] = p.Key + ": " + p.Text
		}
	}
	return strings.Join(lines, "\n")
}

// Add adds a problem with key.
func (ps *Problems) Add(key, format string, args ...any) {
	*ps = append(*ps, Problem{key, fmt.Sprintf(format, args...)})
}

// has reports whether something is known to be wrong with key or below it.
func (ps Problems) has(key string) bool {
	for _, p := range ps {
		if rest, ok := strings.CutPrefix(p.Key, key); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// Err returns ps as an error, or nil if there is none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// ProblemsOf returns what the Validate of a package says: a problem for each of the errors that err joins, with the
// setting at its beginning as key, or without a key if it is about the settings as a whole.
func ProblemsOf(err error) (ps Problems) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			ps = append(ps, ProblemsOf(err)...)
		}
		return ps
	}
	if err == nil {
		return nil
	}
	key, text, ok := strings.Cut(err.Error(), ": ")
	if !ok || strings.ContainsRune(key, ' ') {
		key, text = "", err.Error()
	}
	return Problems{{key, text}}
}
