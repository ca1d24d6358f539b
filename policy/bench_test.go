package policy

import (
	"testing"

	"github.com/hashicorp/go-hclog"
)

// BenchmarkRecipient is one RCPT through the default lists.
func BenchmarkRecipient(b *testing.B) {
	f := &fixture{}
	d := deps(f)
	d.Logger = hclog.NewNullLogger()
	chain, err := Build(Config{Networks: prefixes("127.0.0.0/8", "10.0.0.0/8")}, DefaultMX(), d)
	if err != nil {
		b.Fatal(err)
	}
	tx := transaction("s@sender.example", "alice@example.com")
	s := chain.Session()
	b.ReportAllocs()
	for b.Loop() {
		if s.Evaluate(b.Context(), tx).Refused {
			b.Fatal("refused")
		}
	}
}
