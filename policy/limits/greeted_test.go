package limits

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// facts are Facts without end.
type facts map[string][]byte

func (f facts) Get(key string) ([]byte, bool) { value, found := f[key]; return value, found }

func (f facts) Put(key string, value []byte, _ time.Time) { f[key] = value }

// TestGreeted: a client is remembered for its listener's time, however long the
// facts are.
func TestGreeted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		known := facts{"192.0.2.9": []byte("of a later release")}
		all := NewGreeted(known)
		short, long := all.For(time.Hour), all.For(2*time.Hour)
		a, mapped := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")
		if short.Waited(a) || short.Waited(netip.MustParseAddr("192.0.2.9")) {
			t.Error("known before it came")
		}
		long.Wait(a)
		if !short.Waited(mapped) || !NewGreeted(known).For(time.Hour).Waited(a) {
			t.Error("not known")
		}
		time.Sleep(time.Hour)
		if short.Waited(a) || !long.Waited(a) {
			t.Error("not known for the time of its listener")
		}
		time.Sleep(time.Hour)
		if long.Waited(a) {
			t.Error("known for too long")
		}
	})
}
