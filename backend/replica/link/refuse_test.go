package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/replica/link/linktest"
)

func pinOfKey(t *testing.T, i int) Pin {
	t.Helper()
	pin, err := PinOf(keys[i])
	if err != nil {
		t.Fatal(err)
	}
	return pin
}

// TestRefusals: who is not the partner, or not as it should be, is refused, and
// both sides tell their operators what to do.
func TestRefusals(t *testing.T) {
	other := testKey("somebody else")
	for name, row := range map[string]struct {
		change func(t *testing.T, i int, c *Config)
		code   RefusalCode
		says   string
	}{
		"secret": {func(_ *testing.T, i int, c *Config) {
			if i == 1 {
				c.Secret = []byte("another secret of sufficient length")
			}
		}, WrongSecret, "secret_file"},
		"pin of who answers": {func(t *testing.T, i int, c *Config) {
			c.Secret, c.Pins = nil, []Pin{pinOfKey(t, 1-i)}
			if i == 1 {
				c.Certificate = other
			}
		}, UnknownKey, "replica pin"},
		"pin of who dials": {func(t *testing.T, i int, c *Config) {
			c.Secret, c.Pins = nil, []Pin{pinOfKey(t, 1-i)}
			if i == 0 {
				c.Certificate = other
			}
		}, UnknownKey, "partner_pin"},
		"one way of each": {func(t *testing.T, i int, c *Config) {
			if i == 1 {
				c.Secret, c.Pins = nil, []Pin{pinOfKey(t, 0)}
			}
		}, OtherAuth, "write the same in both"},
		"same number": {func(_ *testing.T, _ int, c *Config) { c.Node = 0 }, SameNode, "node = 1"},
		"same class":  {func(_ *testing.T, i int, c *Config) { c.Node = uint16(2 * i) }, SameNode, "both even"},
		"itself":      {func(_ *testing.T, _ int, c *Config) { c.Node, c.Origin = 0, 7 }, Itself, "server itself"},
		"a clone":     {func(_ *testing.T, i int, c *Config) { c.Origin = uint64(i)<<48 | 99 }, Cloned, "copy of the other"},
		"other pair": {func(_ *testing.T, i int, c *Config) {
			if i == 1 {
				c.Pair = "cell 2"
			}
		}, OtherPair, `"cell 2"`},
		"two releases apart": {func(_ *testing.T, i int, c *Config) {
			c.MinVersion, c.Version = uint16(4+2*i), uint16(5+2*i)
		}, OldVersion, "upgrade the older"},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(i int, c *Config) { row.change(t, i, c) }, func(t *testing.T, p *pairTest) {
				after(20 * time.Second)
				for i, n := range p.nodes {
					st := n.link.Status()
					if n.ups() != 0 || st.Connected || !st.Refused || !strings.Contains(st.Failure, row.says) {
						t.Errorf("node %d: %d sessions, %+v", i, n.ups(), st)
					}
				}
				if err := p.nodes[0].link.dial(t.Context()); !isRefusal(err, row.code) {
					t.Errorf("refused by %v", err)
				}
				p.stop()
				if lines := strings.Count(p.nodes[0].log.String(), "no session with the partner"); lines < 1 || lines > 3 {
					t.Errorf("%d lines in the log:\n%s", lines, p.nodes[0].log.String())
				}
			})
		})
	}
}

// TestUnknownPinIsNamed: the operator reads the very pin to write down.
func TestUnknownPinIsNamed(t *testing.T) {
	within(t, func(i int, c *Config) {
		c.Secret, c.Pins = nil, []Pin{pinOfKey(t, i)} // each its own: a mistake people make
	}, func(t *testing.T, p *pairTest) {
		if st := p.nodes[0].link.Status(); !strings.Contains(st.Failure, pinOfKey(t, 1).String()) && !strings.Contains(st.Failure, pinOfKey(t, 0).String()) {
			t.Errorf("failure: %s", st.Failure)
		}
	})
}

// TestPins: the right pins, and one that is about to be replaced beside it.
func TestPins(t *testing.T) {
	within(t, func(i int, c *Config) {
		c.Secret, c.Pins = nil, []Pin{{1}, pinOfKey(t, 1-i)}
	}, func(t *testing.T, p *pairTest) {
		if got := p.nodes[0].session(t).Peer().Pin; got != pinOfKey(t, 1) {
			t.Errorf("pin %s", got)
		}
	})
}

// TestVersions: servers one release apart speak what both know, whichever is
// the newer one.
func TestVersions(t *testing.T) {
	for newer := range 2 {
		t.Run(hosts[newer], func(t *testing.T) {
			within(t, func(i int, c *Config) {
				c.MinVersion, c.Version, c.Features = 1, 2, 0b0111
				if i == newer {
					c.MinVersion, c.Version, c.Features = 2, 3, 0b1101
				}
			}, func(t *testing.T, p *pairTest) {
				for i, n := range p.nodes {
					if s := n.session(t); s.Level() != 2 || s.Features() != 0b0101 {
						t.Errorf("node %d: level %d, features %b", i, s.Level(), s.Features())
					}
				}
			})
		})
	}
}

// between takes a's connection to b apart and passes on what is said: two TLS
// connections, one handshake of ours.
func between(ctx context.Context, t *testing.T, n *linktest.Network, mallory tls.Certificate) {
	l := n.Listen("mallory")
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	cfg := &tls.Config{Certificates: []tls.Certificate{mallory}, NextProtos: []string{protocol}, ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := n.Dialer("mallory")(ctx, "b")
		if err != nil {
			t.Error(err)
			return
		}
		inner, outer := tls.Server(from, cfg), tls.Client(to, cfg)
		go func() { _, _ = io.Copy(outer, inner); _ = to.Close() }()
		go func() { _, _ = io.Copy(inner, outer); _ = from.Close() }()
	}
}

// TestSomebodyBetween: who sits between and passes on the proofs has two
// connections, and the proofs are bound to each. A pin does not fit either.
func TestSomebodyBetween(t *testing.T) {
	mallory := testKey("mallory")
	for name, pins := range map[string]bool{"secret": false, "pins": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, func(i int, c *Config) {
					c.Partner = []string{"mallory", ""}[i]
					if pins {
						c.Secret, c.Pins = nil, []Pin{pinOfKey(t, 1-i)}
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); between(ctx, t, p.net, mallory) }()
				after(30 * time.Second)
				if p.nodes[0].ups()+p.nodes[1].ups() != 0 {
					t.Error("a session with somebody between")
				}
				if st := p.nodes[0].link.Status(); !st.Refused {
					t.Errorf("status %+v", st)
				}
				cancel()
				<-ended
				p.stop()
			})
		})
	}
}

// TestReflection: who answers with what was said to it proves nothing.
func TestReflection(t *testing.T) {
	t.Parallel()
	c := Config{Secret: testSecret}
	bound := []byte("one connection")
	h := hello{auth: authSecret, proof: c.proof(labelDialer, bound)}
	if err := c.prove(h, labelDialer, bound, Pin{}); err != nil {
		t.Errorf("the right proof: %v", err)
	}
	if err := c.prove(h, labelAcceptor, bound, Pin{}); !isRefusal(err, WrongSecret) {
		t.Errorf("a reflected proof: %v", err)
	}
	if err := c.prove(h, labelDialer, []byte("another connection"), Pin{}); !isRefusal(err, WrongSecret) {
		t.Errorf("a proof from elsewhere: %v", err)
	}
}

// TestStrangers: those who connect and say nothing, or nonsense, are gone after
// a few seconds, are never many, and do not keep the partner out.
func TestStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := linktest.New()
		p := &pairTest{t: t, net: n}
		p.start(1, testConfig(n, 1))
		dial := n.Dialer("stranger")
		var strangers []net.Conn
		for i := range 3 * maxStrangers {
			c, err := dial(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				_, _ = c.Write(bytes.Repeat([]byte{byte(i)}, 600))
			}
			strangers = append(strangers, c)
			after(time.Millisecond)
			l := p.nodes[1].link
			l.doorway.mu.Lock()
			if len(l.doorway.waiting) > maxStrangers {
				t.Errorf("%d strangers wait", len(l.doorway.waiting))
			}
			l.doorway.mu.Unlock()
		}
		p.start(0, testConfig(n, 0))
		after(time.Second)
		p.nodes[0].session(t)
		after(handshakeTime)
		for i, c := range strangers {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
				t.Errorf("stranger %d is still connected", i)
			}
		}
		p.stop()
	})
}

// TestSlowStranger: a handshake of one octet a second ends in time.
func TestSlowStranger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := linktest.New()
		p := &pairTest{t: t, net: n}
		p.start(1, testConfig(n, 1))
		c, err := n.Dialer("stranger")(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		go func() {
			for range 60 {
				_, _ = c.Write([]byte{22})
				time.Sleep(time.Second)
			}
		}()
		_, _ = io.Copy(io.Discard, c)
		if took := time.Since(began); took > handshakeTime+time.Second {
			t.Errorf("it was heard for %s", took)
		}
		p.nodes[1].stop()
		time.Sleep(time.Minute)
	})
}

// TestConfig: what cannot work is told at the start.
func TestConfig(t *testing.T) {
	t.Parallel()
	good := testConfig(linktest.New(), 0)
	for says, change := range map[string]func(*Config){
		"replica keygen":       func(c *Config) { c.Secret = []byte("short") },
		"not both":             func(c *Config) { c.Pins = []Pin{{}} },
		"at least twice":       func(c *Config) { c.DeadAfter = time.Second },
		"certificate":          func(c *Config) { c.Certificate = tls.Certificate{} },
		"older than":           func(c *Config) { c.MinVersion, c.Version = 3, 2 },
		"too long":             func(c *Config) { c.Pair = strings.Repeat("x", 1000) },
		"replica: the secret ": func(c *Config) { c.Secret = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c, &recorder{}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
}

// TestOwnKey: the key is made once, is for its owner only, and stays.
func TestOwnKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "replica")
	first, err := OwnKey(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OwnKey(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	a, errA := PinOf(first)
	b, errB := PinOf(again)
	if a != b || errA != nil || errB != nil {
		t.Errorf("pins %s and %s, %v, %v", a, b, errA, errB)
	}
	if info, err := os.Stat(filepath.Join(dir, keyName)); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, certName)); err != nil { // as after a crash between the two
		t.Fatal(err)
	}
	if _, err := OwnKey(dir, 1); err != nil {
		t.Errorf("half a key pair is not made anew: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyName), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OwnKey(dir, 1); err == nil {
		t.Error("a damaged key is replaced silently, though the partner knows it by its pin")
	}
}

// TestPinNotation: as it is printed, and as other tools print digests.
func TestPinNotation(t *testing.T) {
	t.Parallel()
	pin := pinOfKey(t, 0)
	digits := strings.TrimPrefix(pin.String(), pinPrefix)
	var colons []string
	for i := 0; i < len(digits); i += 2 {
		colons = append(colons, strings.ToUpper(digits[i:i+2]))
	}
	for _, text := range []string{pin.String(), " " + pin.String() + "\n", digits, strings.Join(colons, ":")} {
		if got, err := ParsePin(text); err != nil || got != pin {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "sha256:", "sha256:abcd", strings.Repeat("zz", 32), digits + "00"} {
		if _, err := ParsePin(text); err == nil || !strings.Contains(err.Error(), "replica pin") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSecretFile: its first line, which must be long.
func TestSecretFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "secret")
	secret := NewSecret()
	for text, good := range map[string]bool{secret: true, secret + "\n# from there\n": true, " " + secret + "\r\n": true, "": false, "hunter2\n": false, "\n" + secret: false} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(name)
		if (err == nil) != good || good && string(got) != secret {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
