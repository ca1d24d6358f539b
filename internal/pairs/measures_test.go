package pairs

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// BenchmarkPairs prints what both pairs reach, in turn: the figure of each line
// is in its own unit, and ns/op means nothing here.
//
//	go test ./internal/pairs -run '^$' -bench Pairs -benchtime 1x -count 3
func BenchmarkPairs(b *testing.B) {
	everybody := benchUsers()
	systems := []pair{ours(b, "semi-sync", everybody)}
	if !*alone {
		systems = append(systems, &dovecots{testenv.DovecotPair(b, testenv.DovecotPairOptions{Users: everybody}), 330 * time.Second})
	}
	next := 0
	for _, m := range measures {
		for _, p := range systems {
			b.Run(m.name+"/"+p.name(), func(b *testing.B) {
				for b.Loop() {
					next++
					b.ReportMetric(m.run(b, p, everybody[next%len(everybody)]), m.unit)
				}
			})
		}
	}
}

var durability = flag.String("durability", "semi-sync", "of the pair in BenchmarkFailover")

var alone = flag.Bool("alone", false, "measure our pair only")

func benchUsers() []string {
	list := make([]string, 200)
	for i := range list {
		list[i] = fmt.Sprintf("user%03d@pairs.test", i)
	}
	return list
}

// BenchmarkDurability prints what waiting for the partner costs a delivery: the
// throughput of 16 connections and the time of one delivery.
func BenchmarkDurability(b *testing.B) {
	everybody := benchUsers()
	pairs := map[string]*posterns{}
	for _, mode := range []string{"async", "semi-sync"} {
		pairs[mode] = ours(b, mode, everybody)
	}
	next := 0
	for _, connections := range []int{1, 16} {
		for _, mode := range []string{"async", "semi-sync"} {
			b.Run(fmt.Sprintf("%d connections/%s", connections, mode), func(b *testing.B) {
				for b.Loop() {
					next += connections
					took := giveMany(b, pairs[mode], everybody, next, 125*connections, connections)
					b.ReportMetric(took.rate, "mails/s")
					b.ReportMetric(took.median, "ms")
				}
			})
		}
	}
}

// BenchmarkFailover prints how long senders and mail programs that know one
// name wait at most when a node dies, or falls silent: some of the users are at
// home on it, and some mail is on its way to it.
func BenchmarkFailover(b *testing.B) {
	everybody := benchUsers()[:12]
	p := ours(b, *durability, everybody)
	f := p.openFront(b)
	for _, how := range []struct {
		name     string
		do, undo func(testing.TB, int)
	}{{"killed", p.kill9, p.start}, {"silent", p.freeze, p.thaw}} {
		b.Run(how.name, func(b *testing.B) {
			for b.Loop() {
				for _, u := range everybody {
					if err := send(f.smtp, u, message("before", 200)); err != nil {
						b.Fatal(err)
					}
					quiet(b, p, u, anything)
				}
				how.do(b, 0)
				mails := slowest(b, everybody, func(u string) error { return send(f.smtp, u, message("after", 200)) })
				logins := slowest(b, everybody, func(u string) error { return login(f.imap, u, p.password()) })
				b.ReportMetric(float64(mails.Milliseconds()), "ms/mail")
				b.ReportMetric(float64(logins.Milliseconds()), "ms/login")
				how.undo(b, 0)
				pause(6 * time.Second) // until the node counts as well again
				for _, u := range everybody {
					quiet(b, p, u, anything)
				}
			}
		})
	}
}

// slowest does something for all at once and returns how long the last took.
func slowest(b *testing.B, users []string, do func(user string) error) time.Duration {
	b.Helper()
	began := time.Now()
	var wait sync.WaitGroup
	for _, u := range users {
		wait.Go(func() {
			if err := do(u); err != nil {
				b.Error(err)
			}
		})
	}
	wait.Wait()
	return time.Since(began)
}

func login(address, user, password string) error {
	c, err := dial(address, user, password)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.do("SELECT INBOX")
	return err
}
