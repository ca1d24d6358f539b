package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const line = "4321 (a) b (c)) S 17 4321 4321 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 9 0 100 200 300"
	got, err := parseStat([]byte(line))
	if want := (processTimes{parent: 17, used: 3 * time.Second}); err != nil || got != want {
		t.Errorf("parseStat(%q) = %+v, %v, want %+v", line, got, err, want)
	}
	for _, bad := range []string{"", "1 cat S 1", "1 (cat) S 1 2 3"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) gave no error", bad)
		}
	}
}

func TestCPUTimeOfThisProcess(t *testing.T) {
	t.Parallel()
	before, err := cpuTime([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		after, err := cpuTime([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if after > before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %v after reading /proc for a minute", after)
		}
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"Rss:  9 kB\nPss:                1234 kB\nPss_Dirty:   1 kB\n": 1234 << 10, "Rss: 1 kB\n": 0, "": 0,
	} {
		if got := parsePSS([]byte(text)); got != want {
			t.Errorf("%q: %d octets, want %d", text, got, want)
		}
	}
	if octets, err := memory([]int{os.Getpid()}); err != nil || octets < 1<<20 {
		t.Errorf("this process takes %d octets, %v", octets, err)
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, size := range []int{5_000, 50_000} {
		all := messages(size)
		seen := make(map[string]bool)
		stuffed := false
		for _, m := range all {
			seen[string(m)] = true
			if len(m) < size*95/100 || len(m) > size*105/100 {
				t.Errorf("a message of %d octets, want about %d", len(m), size)
			}
			if bytes.Count(m, []byte("\n")) != bytes.Count(m, []byte("\r\n")) {
				t.Errorf("bare newlines in a message of %d octets", size)
			}
			if at := bytes.Index(m, []byte("\r\n.\r\n")); at != len(m)-5 {
				t.Errorf("the final dot stands at %d of %d", at, len(m))
			}
			stuffed = stuffed || bytes.Contains(m, []byte("\r\n.."))
			text := textproto.NewReader(bufio.NewReader(bytes.NewReader(m)))
			header, err := text.ReadMIMEHeader()
			if err != nil || header.Get("Content-Type") == "" || len(header["Received"]) != 3 {
				t.Errorf("header %v: %v", header, err)
			}
		}
		if len(seen) != distinct {
			t.Errorf("%d different messages of %d octets, want %d", len(seen), size, distinct)
		}
		if !stuffed {
			t.Errorf("no line of the messages of %d octets begins with a dot", size)
		}
	}
}

func TestMedianAndPercentiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{1, 9, 3, 5}, 4}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	var f figures
	var took []time.Duration
	for n := 100; n > 0; n-- {
		took = append(took, time.Duration(n)*time.Millisecond)
	}
	f.percentiles(took)
	if f.values[p50] != 50 || f.values[p95] != 95 || f.values[p99] != 99 {
		t.Errorf("percentiles of 1..100 ms: %v", f.values)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	c := benchCase{name: "small"}
	table := table{systems: []string{"ours", "theirs"}}
	for _, v := range []float64{400, 100, 300} {
		table.add(c, "ours", figures{values: [metrics]float64{acceptedPerSecond: v, cpuPerMessage: 0.5}})
		table.add(c, "theirs", figures{values: [metrics]float64{acceptedPerSecond: v / 4, cpuPerMessage: 10, memoryTaken: 100}})
	}
	for _, other := range []benchCase{{name: "like it"}, {name: "other"}} {
		table.add(other, "ours", figures{values: [metrics]float64{acceptedPerSecond: 2, cpuPerMessage: 1}})
		table.add(other, "theirs", figures{values: [metrics]float64{acceptedPerSecond: 1, cpuPerMessage: 2}})
	}
	table.turns[[2]string{"like it", "theirs"}][0].set(memoryTaken, 7)
	var out strings.Builder
	table.print(&out)
	const want = `
| case | system | accepted/s | CPU ms each | memory MiB |
|---|---|--:|--:|--:|
| small | ours | 300 | 0.50 |  |
| small | theirs | 75.0 | 10.0 | 100 |
|  | **ratio** | **4.00** | **0.050** |  |
| like it | ours | 2.00 | 1.00 |  |
| like it | theirs | 1.00 | 2.00 | 7.00 |
|  | **ratio** | **2.00** | **0.50** |  |

| case | system | accepted/s | CPU ms each |
|---|---|--:|--:|
| other | ours | 2.00 | 1.00 |
| other | theirs | 1.00 | 2.00 |
|  | **ratio** | **2.00** | **0.50** |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestTableOfMany: of more than two systems each is compared with the first of
// the case, and one that a case is not for has no row.
func TestTableOfMany(t *testing.T) {
	t.Parallel()
	c := benchCase{name: "three", of: []string{"theirs", "ours", "other"}}
	var table table
	table.against = make(map[string]string)
	for name, v := range map[string]float64{"theirs": 50, "ours": 600, "other": 100} {
		table.add(c, name, figures{values: [metrics]float64{ratePerSecond: v, cpuPerMessage: 2}})
	}
	table.systems = []string{"elsewhere", "theirs", "ours", "other"}
	var out strings.Builder
	table.print(&out)
	const want = `
| case | system | per second | CPU ms each | ratio |
|---|---|--:|--:|--:|
| three | theirs | 50.0 | 2.00 | **1.00** |
| three | ours | 600 | 2.00 | **12.00** |
| three | other | 100 | 2.00 | **2.00** |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestRecipients: of a transaction's addresses two are nobody's, and the driver
// ends at an answer that is not the right one.
func TestRecipients(t *testing.T) {
	t.Parallel()
	for _, group := range []int{1, 20} {
		s := &system{smtp: smtpDoor(knower(t, "alias", "user")), directory: &slapd{people: 50}}
		var took []time.Duration
		var err error
		for within := 50 * time.Millisecond; err == nil && len(took) == 0; within *= 2 { // until there was time for one
			took, err = askRecipients(t.Context(), s, 2, group, time.Now().Add(within))
		}
		if err != nil || len(took)%perTransaction != 0 {
			t.Errorf("by %d: %d answers, %v", group, len(took), err)
		}
		s.smtp = smtpDoor(knower(t, "user"))
		var other *replyError
		if _, err := askRecipients(t.Context(), s, 1, group, time.Now().Add(time.Minute)); !errors.As(err, &other) {
			t.Errorf("by %d: a server that knows no aliases gave %v", group, err)
		}
	}
}

// knower is an SMTP server that knows addresses which begin so.
func knower(t *testing.T, prefixes ...string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerKnown(textproto.NewConn(c), prefixes)
		}
	}()
	return l.Addr().String()
}

func answerKnown(c *textproto.Conn, prefixes []string) {
	defer c.Close()
	reply := "220 ready"
	for c.PrintfLine("%s", reply) == nil {
		line, err := c.ReadLine()
		reply = "250 yes"
		switch {
		case err != nil:
			return
		case line == "QUIT":
			reply = "221 bye"
		case strings.HasPrefix(line, "RCPT TO:<"):
			known := func(p string) bool { return strings.HasPrefix(line, "RCPT TO:<"+p) }
			if !slices.ContainsFunc(prefixes, known) {
				reply = "550 no"
			}
		}
	}
}

// TestDrive lets the driver loose on a server that takes everything, and on
// one that refuses.
func TestDrive(t *testing.T) {
	t.Parallel()
	texts := messages(5_000)
	for _, c := range []struct {
		name, final string
		refused     bool
	}{{"accepts", "250 2.0.0 taken", false}, {"refuses", "452 4.3.1 full", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var counted atomic.Int64
			address := sink(t, c.final)
			var took []time.Duration
			var err error
			for within := 100 * time.Millisecond; err == nil && len(took) == 0; within *= 2 { // until there was time for one
				took, err = drive{
					door: smtpDoor(address), connections: 3, each: perConnection, until: time.Now().Add(within), texts: texts,
					recipient: func(id int64) string { return userAddress(int(id) % users) },
					accepted:  func(int64) { counted.Add(1) },
				}.run(t.Context())
			}
			if c.refused {
				if err == nil || !strings.Contains(err.Error(), "452 4.3.1 full") {
					t.Errorf("error %v, want the server's reply", err)
				}
				return
			}
			if err != nil || int64(len(took)) != counted.Load() {
				t.Errorf("%d transactions, %d counted, error %v", len(took), counted.Load(), err)
			}
		})
	}
}

// sink is an SMTP server that answers by rote.
func sink(t *testing.T, final string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go takeAll(textproto.NewConn(c), final)
		}
	}()
	return l.Addr().String()
}

func takeAll(c *textproto.Conn, final string) {
	defer c.Close()
	reply := "220-sink\r\n220 ready"
	for c.PrintfLine("%s", reply) == nil {
		line, err := c.ReadLine()
		switch verb, _, _ := strings.Cut(line, " "); {
		case err != nil:
			return
		case verb == "DATA":
			if c.PrintfLine("354 go on") != nil {
				return
			}
			if body, err := c.ReadDotBytes(); err != nil || !bytes.HasPrefix(body, []byte("X-Bench: ")) {
				return
			}
			reply = final
		case verb == "QUIT":
			reply = "221 bye"
		default:
			reply = "250-one\r\n250 two"
		}
	}
}

func TestExists(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{"* 12 EXISTS": 12, "* 0 EXISTS": 0, "* 3 RECENT": -1, "* x EXISTS": -1, "": -1} {
		got, ok := exists([]byte(line))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("exists(%q) = %d, want %d", line, got, want)
		}
	}
}

// TestReceiver: what the driver sends is counted where mail is passed on to.
func TestReceiver(t *testing.T) {
	t.Parallel()
	r, err := startReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	took, err := drive{
		door: smtpDoor(r.address()), connections: 2, each: 3, most: 10, until: time.Now().Add(time.Minute), texts: messages(5_000),
		recipient: func(int64) string { return "kim@" + outDomain },
	}.run(t.Context())
	if err != nil || len(took) != 10 {
		t.Fatalf("%d messages sent, %v; want 10", len(took), err)
	}
	if err := r.wait(t.Context(), 10); err != nil || r.taken.Load() != 10 {
		t.Errorf("%d messages counted, %v; want 10", r.taken.Load(), err)
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := writeCertificate(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Error(err)
	}
}

// TestLetters: what is to be verified holds, and nothing is left of the signature
// that is only made up.
func TestLetters(t *testing.T) {
	t.Parallel()
	site, err := newSigningSite(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer site.names.close()
	resolver, err := dns.New(dns.Config{Servers: []string{site.names.address}})
	if err != nil {
		t.Fatal(err)
	}
	verifier := dkim.NewVerifier(dkim.Config{}, resolver)
	for what, want := range map[task]int{verifying: 1, signing: 0} {
		all, err := letters(site.key, what, 5_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, wire := range all {
			text := strings.TrimSuffix(strings.ReplaceAll("\r\n"+string(wire), "\r\n..", "\r\n."), ".\r\n")
			header, body, _ := strings.Cut(text[2:], "\r\n\r\n")
			if got := strings.Count(header, "DKIM-Signature:"); got != want {
				t.Fatalf("%d signatures, want %d", got, want)
			}
			var fields []mail.Field
			for line := range strings.SplitSeq(header, "\r\n") {
				if line[0] == '\t' || line[0] == ' ' {
					fields[len(fields)-1] += mail.Field("\r\n" + line)
				} else {
					fields = append(fields, mail.Field(line))
				}
			}
			found, err := verifier.Verify(t.Context(), fields, strings.NewReader(body))
			if err != nil || len(found) != want || want == 1 && found[0].Result != dkim.Pass {
				t.Fatalf("%+v, %v", found, err)
			}
		}
	}
}
