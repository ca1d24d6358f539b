package dmarcrpt

import (
	"hash/fnv"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
)

// Bounds of what is kept of one message.
const (
	maxSignatures = 4
	maxNameOctets = 255
	maxTextOctets = 100
)

// row is messages that went alike.
type row struct {
	Client      string      `json:"ip"`
	Disposition string      `json:"disp"`
	DKIM        bool        `json:"dkim,omitempty"` // aligned
	SPF         bool        `json:"spf,omitempty"`
	Override    string      `json:"why,omitempty"`
	Comment     string      `json:"comment,omitempty"`
	HeaderFrom  string      `json:"from"`
	MailFrom    string      `json:"mailfrom,omitempty"`
	Sender      authResult  `json:"auth_spf"`
	Scope       string      `json:"scope"`
	Signatures  []signature `json:"auth_dkim,omitempty"`
	N           int64       `json:"n"`
}

type authResult struct {
	Domain string `json:"d"`
	Result string `json:"r"`
}

type signature struct {
	authResult
	Selector string `json:"s,omitempty"`
}

// same reports whether two rows count the same.
func (r *row) same(o *row) bool {
	return r.Client == o.Client && r.Disposition == o.Disposition && r.DKIM == o.DKIM && r.SPF == o.SPF && r.Override == o.Override &&
		r.Comment == o.Comment && r.HeaderFrom == o.HeaderFrom && r.MailFrom == o.MailFrom && r.Sender == o.Sender && r.Scope == o.Scope &&
		slices.Equal(r.Signatures, o.Signatures)
}

// rowOf takes of an evaluation what is reported.
func rowOf(e mailauth.Evaluation) *row {
	r := &row{
		Client: e.Client.Unmap().WithZone("").String(), Disposition: string(e.Applied), DKIM: e.Answer.AlignedDKIM, SPF: e.Answer.AlignedSPF,
		Override: e.Override.Type, Comment: dailyreport.Plain(e.Override.Comment, maxTextOctets),
		HeaderFrom: dailyreport.Plain(e.Answer.Author, maxNameOctets), MailFrom: dailyreport.Plain(e.From, maxNameOctets),
		Sender: authResult{dailyreport.Plain(e.SPF.Domain, maxNameOctets), word(e.SPF.Result, spfResults)}, Scope: e.SPFScope, N: 1,
	}
	for _, id := range e.DKIM[:min(len(e.DKIM), maxSignatures)] {
		r.Signatures = append(r.Signatures, signature{authResult{dailyreport.Plain(id.Domain, maxNameOctets), word(id.Result, dkimResults)}, dailyreport.Plain(id.Selector, maxTextOctets)})
	}
	return r
}

// The words of appendix C.
var (
	spfResults  = []string{"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"}
	dkimResults = []string{"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"}
)

func word(result string, words []string) string {
	if slices.Contains(words, result) {
		return result
	}
	return words[0]
}

// shard is where a row of a domain is kept: a few rows are rewritten at a time,
// not all.
func (r *row) shard() byte {
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.Client)) // never fails
	return byte(h.Sum32() % shards)
}

// rows are those of one shard.
type rows struct {
	Version int    `json:"version"`
	Rows    []*row `json:"rows"`
}

// merge adds rows of another count.
func (c *rows) merge(other []*row) {
	for _, o := range other {
		c.add(o)
	}
}

// add counts a row; the row is kept.
func (c *rows) add(o *row) {
	for _, r := range c.Rows {
		if r.same(o) {
			r.N += o.N
			return
		}
	}
	c.Rows = append(c.Rows, o)
}

func (c *rows) messages() (n int64) {
	for _, r := range c.Rows {
		n += r.N
	}
	return n
}

// published is the policy that was in force, as the last message met it.
type published struct {
	StrictDKIM bool   `json:"adkim,omitempty"`
	StrictSPF  bool   `json:"aspf,omitempty"`
	Policy     string `json:"p"`
	Subdomains string `json:"sp,omitempty"`
	Percent    int    `json:"pct"`
	Failures   string `json:"fo,omitempty"`
}

func publishedBy(r *dmarc.Record) published {
	return published{r.StrictDKIM, r.StrictSPF, string(r.Policy), string(r.Subdomains), r.Percent, strings.Join(r.Failures, ":")}
}
