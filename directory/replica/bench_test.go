package replica_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/replica"
)

// BenchmarkLookup is a directory's question to a replica of 20,000 people.
func BenchmarkLookup(b *testing.B) {
	r := run(b, replica.Config{}, nil)
	r.feed.do(b, refresh(replica.Position{}, upTo(20000)...))
	v := r.View(&live{err: down})
	req := directory.Request{Base: base, Filter: directory.And(directory.Equal("objectClass", "inetOrgPerson"), directory.Equal("mail", "p7777@example.com")),
		Attributes: []string{"uid", "mail", "objectClass"}, SizeLimit: 20}
	b.ReportAllocs()
	for b.Loop() {
		if found, err := v.Search(b.Context(), req); err != nil || len(found) != 1 {
			b.Fatalf("%d found, %v", len(found), err)
		}
	}
}

// BenchmarkRefresh takes in 20,000 people, without a network, and tells what
// they take of memory and how long a change takes to be visible.
func BenchmarkRefresh(b *testing.B) {
	r := run(b, replica.Config{}, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		r.feed.do(b, refresh(replica.Position{}, upTo(20000)...))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/20000, "octets/entry")
	changed := r.Changed()
	began := time.Now()
	r.feed.do(b, func(s *replica.Session) error { return s.Put(id(1), person(1, "new@example.com")) })
	<-changed
	b.ReportMetric(float64(time.Since(began).Microseconds()), "µs-to-visible")
	runtime.KeepAlive(r)
}
