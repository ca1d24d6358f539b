package pebble

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/go-hclog"
)

// pebbleLogger gives Pebble's words to our log. Its information is about
// compactions and the like: debug to an operator.
type pebbleLogger struct{ log hclog.Logger }

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.log.IsDebug() {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error(fmt.Sprintf(format, args...))
}

// fatal is what Pebble gave up for: a write it cannot go on without.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// guarded calls fn and returns what Pebble gave up for in it as a fatal error.
// It gives up by Fatalf, or by a panic of its own with what failed. Then it may
// hold locks: nobody may use the database any more, nor close it.
func guarded(fn func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			panic(p)
		case fatal:
			err = p
		case error:
			err = fatal{p}
		default:
			panic(p)
		}
	}()
	return fn()
}

// Fatalf must not return. Where the applier called, the panic becomes the
// store's failure, and at open and close their error; elsewhere the process
// ends, and recovery is a new start.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error(text)
	panic(fatal{errors.New(text)})
}

func events(log hclog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { log.Error("store background work", "err", err) },
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("store is damaged", "path", info.Path, "err", info.Details)
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			log.Warn("disk is slow", "path", info.Path, "operation", info.OpType.String(), "dur", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			log.Warn("disk is behind, commits wait", "reason", info.Reason)
		},
	}
}
