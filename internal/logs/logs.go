// Package logs is our implementation behind hclog.Logger.
//
// What comes in: a message and key-value pairs, some of them chosen by
// strangers. What goes out: exactly one line per call, as logfmt text or JSON,
// in one write. No octet of a value can end the line, start another key or
// reach a terminal as a control character. A logger is safe for concurrent
// use; a call below the level costs a comparison.
package logs

import (
	"io"
	"log"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Format is the shape of a line.
type Format string

// The formats.
const (
	Text Format = "text"
	JSON Format = "json"
)

// Config says how to log.
type Config struct {
	// Level is the least severe level written: trace, debug, info, warn,
	// error or off. Empty means info.
	Level string
	// Format of the lines; empty means Text.
	Format Format
}

// Levels lists the names Config.Level accepts.
func Levels() []string { return []string{"trace", "debug", "info", "warn", "error", "off"} }

// New returns a logger that writes to w. An unknown level means info; the
// configuration refuses it before.
func New(cfg Config, w io.Writer) hclog.Logger {
	level := hclog.LevelFromString(cfg.Level)
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	s := &sink{w: w, encode: appendText}
	if cfg.Format == JSON {
		s.encode = appendJSON
	}
	l := &logger{sink: s, level: new(atomic.Int32)}
	l.level.Store(int32(level))
	return l
}

// sink serialises whole lines to one writer.
type sink struct {
	encode func(buf []byte, at time.Time, level hclog.Level, name, msg string, args ...[]any) []byte

	mu sync.Mutex
	w  io.Writer
}

var lines = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

func (s *sink) write(level hclog.Level, name, msg string, implied, args []any) {
	buf := lines.Get().(*[]byte)
	line := s.encode((*buf)[:0], time.Now(), level, name, msg, implied, args)
	s.mu.Lock()
	_, _ = s.w.Write(line) // nowhere is left to report a log that cannot be written
	s.mu.Unlock()
	if cap(line) <= 16<<10 {
		*buf = line
		lines.Put(buf)
	}
}

// logger is one named view of a sink. Copies share the level.
type logger struct {
	sink    *sink
	level   *atomic.Int32
	name    string
	implied []any
}

var _ hclog.Logger = (*logger)(nil)

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	if level >= hclog.Level(l.level.Load()) {
		l.sink.write(level, l.name, msg, l.implied, args)
	}
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) enabled(level hclog.Level) bool { return level >= hclog.Level(l.level.Load()) }
func (l *logger) IsTrace() bool                  { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool                  { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool                   { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool                   { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool                  { return l.enabled(hclog.Error) }

func (l *logger) ImpliedArgs() []any         { return slices.Clone(l.implied) }
func (l *logger) Name() string               { return l.name }
func (l *logger) SetLevel(level hclog.Level) { l.level.Store(int32(level)) }
func (l *logger) GetLevel() hclog.Level      { return hclog.Level(l.level.Load()) }

// With returns a logger that adds args to every line.
func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.implied = append(slices.Clip(l.implied), args...)
	return &c
}

// Named returns a logger for a part of this one: "queue" becomes "queue.scheduler".
func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

// StandardWriter returns a writer that logs each line written to it.
func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	level := hclog.Info
	if opts != nil && opts.ForceLevel != hclog.NoLevel {
		level = opts.ForceLevel
	}
	return &lineWriter{log: l, level: level}
}

// lineWriter turns what libraries print into log lines.
type lineWriter struct {
	log   *logger
	level hclog.Level
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for line := range strings.SplitSeq(strings.TrimRight(string(p), "\n"), "\n") {
		w.log.Log(w.level, line)
	}
	return len(p), nil
}
