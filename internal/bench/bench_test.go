package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/textproto"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
	deadline := time.Now().Add(20 * time.Second)
	for {
		after, err := cpuTime([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if after > before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %v after reading /proc for 20 s", after)
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
	var out strings.Builder
	table.print(&out)
	const want = `| case | system | accepted/s | visible/s | CPU ms each | p50 ms | p95 ms | p99 ms | memory MiB |
|---|---|--:|--:|--:|--:|--:|--:|--:|
| small | ours | 300 |  | 0.50 |  |  |  |  |
| small | theirs | 75.0 |  | 10.0 |  |  |  | 100 |
|  | **ratio** | **4.00** |  | **0.050** |  |  |  |  |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
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
			took, err := drive(t.Context(), address, 3, time.Now().Add(time.Second), texts, func(int) { counted.Add(1) })
			if c.refused {
				if err == nil || !strings.Contains(err.Error(), "452 4.3.1 full") {
					t.Errorf("error %v, want the server's reply", err)
				}
				return
			}
			if err != nil || len(took) == 0 || int64(len(took)) != counted.Load() {
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
