package pebble

import (
	"fmt"

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

// Fatalf must not return. Where the applier called, the panic becomes the
// store's failure; elsewhere the process ends, and recovery is a new start.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error(text)
	panic(text)
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
