package pebble_test

import (
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// machineEngine is the engine on a disk that loses its power.
type machineEngine struct{ *storetest.Machine }

func (e machineEngine) Open(t *testing.T) store.Store { return e.OpenStore(t) }

func (e machineEngine) Cut(seed uint64) storetest.Engine { return machineEngine{e.Machine.Cut(seed)} }

func TestCrashes(t *testing.T) {
	t.Parallel()
	storetest.RunCrashes(t, func(*testing.T) storetest.Crasher { return machineEngine{storetest.NewMachine()} })
}
