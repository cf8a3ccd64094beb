package main

import (
	"embed"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// helpTexts are the long-form texts of `cfrd help TOPIC`.
//
//go:embed help/*.txt
var helpTexts embed.FS

// newHelpTopics returns commands that cannot be run, which cobra lists as additional help topics.
func newHelpTopics() []*cobra.Command {
	topics := []struct{ name, short string }{
		{"configuration", "The configuration file, its keys, and the environment"},
		{"deploy", "From nothing to customers: addresses, certificate, systemd, split relay"},
		{"certificates", "Files, ACME, a private authority, and what discovery makes of them"},
		{"relay", "What the relay does, what it needs, and its limits"},
		{"steering", "What decides whether an answer is steered, beyond the rules"},
		{"privacy", "Who can see what, and what is never written down"},
	}
	cmds := make([]*cobra.Command, len(topics))
	for i, t := range topics {
		cmds[i] = &cobra.Command{Use: t.name, Short: t.short, Long: helpText(t.name)}
	}
	return cmds
}

// helpText returns the text of a topic, or of a command whose help is as long as one.
func helpText(name string) string {
	text, err := helpTexts.ReadFile("help/" + name + ".txt")
	if err != nil {
		panic("cfrd: help text of " + name + " is not embedded")
	}
	return strings.Replace(string(text), "{{restart keys}}", wrapped(config.RestartKeys()), 1)
}

// wrapped returns words as an indented list with commas, in lines of at most 120 columns.
func wrapped(words []string) string {
	const indent, width = "  ", 120
	lines := []string{indent + words[0]}
	for _, w := range words[1:] {
		last := &lines[len(lines)-1]
		if *last += ","; len(*last)+1+len(w) < width {
			*last += " " + w
			continue
		}
		lines = append(lines, indent+w)
	}
	return strings.Join(lines, "\n")
}
