package dkim

import (
	"strconv"

	"github.com/postern-mail/postern/mail"
)

// Result is what became of one signature, in the words of RFC 8601 section
// 2.7.1.
type Result string

// The results. None is that of a message without signatures; Verify returns no
// Verification for it. Policy is a signature that we do not accept as it is,
// Neutral one that cannot be understood, PermError one that can never be
// verified, TempError one that perhaps can be later.
const (
	None      Result = "none"
	Pass      Result = "pass"
	Fail      Result = "fail"
	Policy    Result = "policy"
	Neutral   Result = "neutral"
	TempError Result = "temperror"
	PermError Result = "permerror"
)

// Verification is what became of one signature.
type Verification struct {
	Result Result
	// Reason says why in English, without line ends; "" for a pass that needs
	// no remark. It may quote the signature, shortened.
	Reason string
	// Signature is what could be read of it; never nil.
	Signature *Signature
	// Field is the place of the signature among the fields of the message.
	Field int
	// Key is the key it was verified with, or that was refused; nil when it
	// was not learned.
	Key *PublicKey
	// HeaderIntact and BodyIntact tell which half of the signature agrees, as
	// far as it was looked at.
	HeaderIntact, BodyIntact bool
	// UnsignedOctets is how much of the body, in its canonical form, follows
	// after what l= covers: anybody may have added it.
	UnsignedOctets int64
	// Testing tells that the domain only tries DKIM: a failure means nothing.
	Testing bool
}

// shownSignature is how much of b= tells signatures apart (RFC 6008).
const shownSignature = 8

// Finding puts a verification in the form of Authentication-Results.
func (v *Verification) Finding() mail.Finding {
	s := v.Signature
	f := mail.Finding{Method: "dkim", Result: string(v.Result), Reason: v.Reason, Domain: s.Domain}
	add := func(name, value string) {
		if value != "" {
			f.Props = append(f.Props, mail.Property{Type: "header", Name: name, Value: value})
		}
	}
	add("d", s.Domain)
	add("s", s.Selector)
	if _, given := s.tags.Get("i"); given {
		add("i", s.Identity)
	}
	add("a", string(s.Algorithm))
	add("b", s.Text[:min(len(s.Text), shownSignature)])
	return f
}

// Best returns the result that says most about a message: a pass if there is
// one, then what may pass later, then what failed; None for no signatures.
func Best(all []Verification) Result {
	order := []Result{Pass, TempError, Fail, Policy, PermError, Neutral}
	best := len(order)
	for i := range all {
		for rank, result := range order[:best] {
			if all[i].Result == result {
				best = rank
				break
			}
		}
	}
	if best == len(order) {
		return None
	}
	return order[best]
}

func (v *Verification) is(result Result, reason string) {
	v.Result, v.Reason = result, reason
}

// keyNote says how strong the key is: "2048-bit key".
func (k *PublicKey) keyNote() string { return strconv.Itoa(k.Bits) + "-bit key" }
