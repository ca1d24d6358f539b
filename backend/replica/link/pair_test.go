package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/backend/replica/link/linktest"
)

// TestFramesArrive: what is sent arrives once, as it was, in order, in each
// class and both directions, whatever its size and however well it compresses.
func TestFramesArrive(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		random := rand.New(rand.NewPCG(1, 2))
		var sent [2][classes][][]byte
		for i, n := range p.nodes {
			s := n.session(t)
			for _, size := range []int{0, 1, minCompress, maxRecord - frameHeader, maxRecord - frameHeader + 1, maxRecord, 100_000, MaxFrame} {
				for c := range Class(classes) {
					body := make([]byte, size)
					if (size+int(c))%2 == 0 {
						for j := range body {
							body[j] = byte(random.Uint32())
						}
					}
					sent[i][c] = append(sent[i][c], bytes.Clone(body))
					mustSend(t, s, c, Frame{Stream: Stream{1: byte(c)}, Type: 7, Body: body})
				}
			}
		}
		after(time.Second)
		for i, n := range p.nodes {
			for c := range Class(classes) {
				if !slices.EqualFunc(n.bodies(c), sent[1-i][c], bytes.Equal) {
					t.Errorf("node %d, %s: other frames than were sent: %d of %d", i, c, len(n.bodies(c)), len(sent[1-i][c]))
				}
			}
			for _, f := range n.got {
				if f.Type != 7 || f.Stream != (Stream{1: byte(f.Class)}) {
					t.Errorf("frame of type %d, stream %v in %s", f.Type, f.Stream, f.Class)
				}
			}
		}
		if st := p.nodes[0].link.Status(); !st.Connected || st.Peer.Node != 1 || st.Peer.Software != "postern test 1" || st.Stats.Classes[Bulk].SentFrames != 8 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestGoodbye: an orderly stop sends what was queued, and says why it goes.
func TestGoodbye(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		s := p.nodes[0].session(t)
		for i := range 100 {
			mustSend(t, s, Bulk, Frame{Body: bytes.Repeat([]byte{byte(i)}, 10_000)})
		}
		p.nodes[0].stop()
		synctest.Wait()
		if got := len(p.nodes[1].bodies(Bulk)); got != 100 {
			t.Errorf("%d of 100 frames arrived", got)
		}
		if err := p.nodes[1].lastDown(); !errors.Is(err, ErrGoodbye) || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("ended by %v", err)
		}
		if err := p.nodes[0].lastDown(); !errors.Is(err, ErrClosed) {
			t.Errorf("ended by %v", err)
		}
	})
}

// TestSilence: whichever way is cut, both sides find out within dead_after and
// a little, and connect again when it is healed.
func TestSilence(t *testing.T) {
	for name, cut := range map[string]func(*linktest.Network, func(*linktest.Network, string, string)){
		"both": func(n *linktest.Network, do func(*linktest.Network, string, string)) {
			do(n, "a", "b")
			do(n, "b", "a")
		},
		"a to b": func(n *linktest.Network, do func(*linktest.Network, string, string)) { do(n, "a", "b") },
		"b to a": func(n *linktest.Network, do func(*linktest.Network, string, string)) { do(n, "b", "a") },
	} {
		t.Run(name, func(t *testing.T) {
			within(t, nil, func(t *testing.T, p *pairTest) {
				after(10 * time.Second)
				if p.nodes[0].ups() != 1 || p.nodes[1].ups() != 1 {
					t.Fatalf("%d and %d sessions before", p.nodes[0].ups(), p.nodes[1].ups())
				}
				cut(p.net, (*linktest.Network).Cut)
				after(4200 * time.Millisecond) // heartbeat + dead_after + watch
				for i, n := range p.nodes {
					if n.lastDown() == nil {
						t.Errorf("node %d did not notice", i)
					}
				}
				cut(p.net, (*linktest.Network).Heal)
				after(10 * time.Second)
				for i, n := range p.nodes {
					n.session(t)
					if n.ups() != 2 {
						t.Errorf("node %d: %d sessions", i, n.ups())
					}
				}
			})
		})
	}
}

// TestReset: a connection that breaks is dead at once, and there again at once.
func TestReset(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		for i := range 5 {
			p.net.Break("a")
			synctest.Wait()
			if p.nodes[0].lastDown() == nil || p.nodes[1].lastDown() == nil {
				t.Fatal("not noticed at once")
			}
			after(500 * time.Millisecond)
			if p.nodes[0].ups() != i+2 || p.nodes[1].ups() != i+2 {
				t.Fatalf("%d and %d sessions after %d resets", p.nodes[0].ups(), p.nodes[1].ups(), i+1)
			}
		}
	})
}

// TestWhoDials: the lower class does; the higher where the lower cannot, and
// when both do at the same time one session remains.
func TestWhoDials(t *testing.T) {
	t.Run("lower", func(t *testing.T) {
		within(t, nil, func(t *testing.T, p *pairTest) {
			if !p.nodes[0].session(t).Peer().Dialed || p.nodes[1].session(t).Peer().Dialed {
				t.Error("node 1 dialed")
			}
		})
	})
	t.Run("higher", func(t *testing.T) {
		within(t, func(i int, c *Config) {
			if i == 0 {
				c.Partner = ""
			}
		}, func(t *testing.T, p *pairTest) {
			after(10 * time.Second)
			if !p.nodes[1].session(t).Peer().Dialed {
				t.Error("node 1 did not dial")
			}
			p.net.Break("a")
			after(10 * time.Second)
			p.nodes[0].session(t)
		})
	})
	t.Run("both", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			defer p.stop()
			for range 20 { // the higher class dials as soon as it may, beside the lower
				p.net.Break("a")
				for range 3 {
					go func() { _ = p.nodes[1].link.dial(t.Context()) }()
				}
				after(2 * time.Second)
				a, b := p.nodes[0].session(t), p.nodes[1].session(t)
				if a.Peer().Dialed == b.Peer().Dialed {
					t.Fatal("the two have different sessions")
				}
				mustSend(t, a, Interactive, Frame{Body: []byte("still there")})
				after(10 * time.Second)
				if a != p.nodes[0].session(t) || b != p.nodes[1].session(t) {
					t.Fatal("the session did not last")
				}
			}
			if got := len(p.nodes[1].bodies(Interactive)); got != 20 {
				t.Errorf("%d of 20 frames arrived", got)
			}
		})
	})
}

// TestInteractivePasses: while mail and bulk wait in megabytes, a frame of a
// client overtakes them all but for what is on the wire.
func TestInteractivePasses(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		p.net.Cut("a", "b")
		s := p.nodes[0].session(t)
		incompressible := make([]byte, MaxFrame)
		random := rand.New(rand.NewPCG(3, 4))
		for i := range incompressible {
			incompressible[i] = byte(random.Uint32())
		}
		for i := range 6 {
			mustSend(t, s, Bulk, Frame{Stream: Stream{byte(i)}, Body: incompressible})
			mustSend(t, s, Mail, Frame{Stream: Stream{byte(i)}, Body: incompressible})
		}
		synctest.Wait()
		mustSend(t, s, Interactive, Frame{Stream: Stream{9}, Body: []byte("flag")})
		synctest.Wait()
		p.net.Heal("a", "b")
		synctest.Wait()
		got := p.nodes[1].got
		at := slices.IndexFunc(got, func(f Received) bool { return f.Class == Interactive })
		if at != 0 {
			t.Errorf("%d frames of a megabyte came before the client's", at)
		}
		if len(got) != 13 {
			t.Errorf("%d frames arrived", len(got))
		}
	})
}

// TestSlowReceiver: who takes nothing of a class is sent no more than the
// window, which stops neither other classes nor, by one account, other accounts
// of the class; and everything comes when it is taken.
func TestSlowReceiver(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		b := p.nodes[1]
		b.mu.Lock()
		b.keep = map[Class]bool{Mail: true}
		b.mu.Unlock()
		s := p.nodes[0].session(t)
		const frames = 40
		go func() {
			for i := range frames {
				if s.Send(t.Context(), Mail, Frame{Stream: Stream{1}, Body: binary.BigEndian.AppendUint32(make([]byte, 200_000), uint32(i))}) != nil {
					return
				}
			}
		}()
		after(time.Second)
		first := len(b.bodies(Mail))
		if octets := first * 200_000; octets < windowStream-200_000 || octets > windowStream+200_000 {
			t.Errorf("%d octets were sent to who takes none", octets)
		}
		mustSend(t, s, Mail, Frame{Stream: Stream{2}, Body: []byte("another account")})
		mustSend(t, s, Interactive, Frame{Stream: Stream{1}, Body: []byte("flag")})
		after(5 * time.Second)
		if got := b.bodies(Mail); len(got) != first+1 || string(got[first]) != "another account" {
			t.Errorf("one account stops another: %d frames", len(got))
		}
		if len(b.bodies(Interactive)) != 1 {
			t.Error("mail stops what clients wait for")
		}
		if s.Stats().Classes[Mail].Stalls == 0 {
			t.Error("no stall was counted")
		}
		b.mu.Lock()
		b.keep = nil
		waiting := slices.Clone(b.got)
		b.mu.Unlock()
		for _, f := range waiting {
			if f.Class == Mail {
				f.Done()
			}
		}
		after(time.Second)
		if got := len(b.bodies(Mail)); got != frames+1 {
			t.Errorf("%d of %d frames arrived", got, frames+1)
		}
		b.session(t)
	})
}

// TestFairAccounts: an account with thousands of frames does not make another
// one wait for them.
func TestFairAccounts(t *testing.T) {
	t.Parallel()
	o := newOutbox()
	for i := range 1000 {
		if wait, err := o.put(Interactive, Frame{Stream: Stream{1}, Body: make([]byte, 900)}); wait != nil || err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := o.put(Interactive, Frame{Stream: Stream{2}, Body: []byte("one")}); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		if f, ok := o.take(Interactive); !ok {
			t.Fatal("nothing to take")
		} else if f.Stream == (Stream{2}) {
			t.Logf("after %d frames", n)
			return
		}
	}
	t.Error("it waits for more than a quantum")
}

// TestShares: the classes share by weight, and who comes new is served at once.
func TestShares(t *testing.T) {
	t.Parallel()
	var s shares
	var got [classes]int
	for range 73_000 {
		c, ok := s.next([classes]bool{true, true, true})
		if !ok {
			t.Fatal("nobody")
		}
		s.served(c, 1000)
		got[c]++
	}
	if got[Bulk] < 900 || got[Mail] < 7_900 || got[Interactive] < 63_900 {
		t.Errorf("shares %v", got)
	}
	for range 1000 {
		c, _ := s.next([classes]bool{Bulk: true})
		s.served(c, 1000)
	}
	for range 3 {
		if c, _ := s.next([classes]bool{Interactive: true, Bulk: true}); c != Interactive {
			t.Errorf("%s goes before who comes new", c)
		}
		s.served(Interactive, 100)
	}
	if _, ok := s.next([classes]bool{}); ok {
		t.Error("somebody among nobody")
	}
}

// TestFullQueue: a sender waits for room, until the session ends.
func TestFullQueue(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		p.net.Cut("a", "b")
		s := p.nodes[0].session(t)
		for s.TrySend(Bulk, Frame{Body: make([]byte, 100_000)}) {
			synctest.Wait() // until the writer takes no more
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Send(t.Context(), Bulk, Frame{Body: make([]byte, 100_000)}) }()
		after(time.Second)
		select {
		case err := <-ended:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		after(10 * time.Second)
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "the session with the partner ended") {
			t.Errorf("ended by %v", err)
		}
	})
}

// TestClocks: a clock that is ahead is measured and told, and stops nothing.
func TestClocks(t *testing.T) {
	within(t, func(i int, c *Config) {
		if i == 1 {
			c.Now = func() time.Time { return time.Now().Add(10 * time.Minute) }
		}
	}, func(t *testing.T, p *pairTest) {
		after(3 * time.Second)
		if off := p.nodes[0].session(t).Stats().ClockOffset; (off - 10*time.Minute).Abs() > time.Second {
			t.Errorf("offset %s", off)
		}
		if off := p.nodes[1].session(t).Stats().ClockOffset; (off + 10*time.Minute).Abs() > time.Second {
			t.Errorf("offset %s", off)
		}
		p.stop()
		if !strings.Contains(p.nodes[0].log.String(), "set them by NTP") {
			t.Errorf("log: %s", p.nodes[0].log.String())
		}
	})
}

// TestDifferences: what the two have not alike is named with both values.
func TestDifferences(t *testing.T) {
	within(t, func(i int, c *Config) {
		c.Settings = []Setting{{"home", "hash"}, {"durability", fmt.Sprintf("mode %d", i)}}
	}, func(t *testing.T, p *pairTest) {
		p.nodes[0].session(t)
		p.stop()
		if log := p.nodes[0].log.String(); !strings.Contains(log, `durability is \"mode 0\" here and \"mode 1\" there`) || strings.Contains(log, "home is") {
			t.Errorf("log: %s", log)
		}
	})
}

// TestRoom: who asks for room and has none is told once when there is.
func TestRoom(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		a := p.nodes[0]
		s := a.session(t)
		p.net.Cut("a", "b")
		sent := 0
		for ; s.Room(Mail); sent++ {
			s.Push(Mail, Frame{Stream: Stream{byte(sent)}, Body: make([]byte, 100_000)})
			synctest.Wait()
		}
		if a.writable[Mail] != 0 || !s.Room(Bulk) {
			t.Error("told of room without any, or asked for another class")
		}
		p.net.Heal("a", "b")
		after(time.Second)
		if a.writable != [classes]int{Mail: 1} {
			t.Errorf("told %v times", a.writable)
		}
		if got := len(p.nodes[1].bodies(Mail)); got != sent {
			t.Errorf("%d of %d frames arrived", got, sent)
		}
	})
}
