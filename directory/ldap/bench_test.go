package ldap_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/internal/testenv"
)

// BenchmarkSearch measures lookups of one address against a private slapd on
// this machine, as many callers at once as a busy gateway has.
func BenchmarkSearch(b *testing.B) {
	s := testenv.Slapd(b, testenv.SlapdOptions{})
	for name, uri := range map[string]string{"tcp": s.LDAP, "ldapi": s.LDAPI, "ldaps": s.LDAPS} {
		b.Run(name, func(b *testing.B) {
			c := open(b, config(s, uri))
			var failed atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					entries, err := c.Search(b.Context(), directory.Request{Base: "dc=example,dc=com",
						Filter: directory.Equal("mail", "bob@example.com"), Attributes: []string{"mail"}, SizeLimit: 5})
					if err != nil || len(entries) != 1 {
						failed.Add(1)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lookups/s")
			if n := failed.Load(); n > 0 {
				b.Errorf("%d of %d lookups failed", n, b.N)
			}
		})
	}
}

// BenchmarkPostfix measures what Postfix's ldap: map makes of the same lookups,
// one process after another and as many as there are processors and more.
func BenchmarkPostfix(b *testing.B) {
	s := testenv.Slapd(b, testenv.SlapdOptions{})
	p := testenv.Postfix(b, "ldap")
	file := p.Write("table.cf", "server_host = "+s.LDAP+"\nversion = 3\nbind = yes\nbind_dn = "+s.Tree.ServiceDN+
		"\nbind_pw = "+s.Tree.ServicePassword+"\nsearch_base = dc=example,dc=com\nquery_filter = (mail=%s)\nresult_attribute = mail\n")
	keys := slices.Repeat([]string{"bob@example.com"}, 5000)
	for _, processes := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(processes), func(b *testing.B) {
			done := 0
			for b.Loop() {
				var wg sync.WaitGroup
				for range processes {
					wg.Go(func() { p.QueryAll("ldap:"+file, keys[:8000/processes/2]) })
				}
				wg.Wait()
				done += processes * (8000 / processes / 2)
			}
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "lookups/s")
		})
	}
}
