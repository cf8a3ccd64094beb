package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/config"
)

// newLogger returns the logger that all services share. Each adds its component; none logs a client together with a
// name or a destination.
func newLogger(cfg config.Log, w io.Writer) zerolog.Logger {
	if cfg.Format == config.FormatConsole || cfg.Format == config.FormatAuto && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
	}
	return zerolog.New(w).Level(cfg.Level).With().Timestamp().Logger()
}

// component returns log with the name of a service in every line.
func component(log zerolog.Logger, name string) zerolog.Logger {
	return log.With().Str("component", name).Logger()
}

// isTerminal reports whether w is a character device, such as a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
