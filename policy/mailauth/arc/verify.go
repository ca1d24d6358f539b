package arc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// Result is the state of a chain (RFC 8617 section 4.4).
type Result string

// The states. TempError is ours: a key could not be looked up.
const (
	None      Result = "none"
	Pass      Result = "pass"
	Fail      Result = "fail"
	TempError Result = "temperror"
)

// Chain is what became of a message's chain.
type Chain struct {
	Result Result
	Reason string // why it failed, in English
	// Sets are the sets of a chain that passed, the first first; of others what
	// could be read.
	Sets []Set
	// OldestPass is the lowest instance whose message signature still holds
	// with all after it: the message has not changed since then. 0 when it has
	// not changed since the first; meaningless unless Result is Pass (RFC 8617
	// section 5.2, "oldest-pass").
	OldestPass int
	// Open tells that something which people see could be added after the newest
	// seal of a chain that passed: the end of the body, or a second field where
	// one was covered. The chain holds, and what it says about the author may be
	// about another message.
	Open bool

	highest int
}

// Finding puts the state of a chain in the form of Authentication-Results
// (RFC 8617 section 10.2).
func (c *Chain) Finding() mail.Finding {
	f := mail.Finding{Method: "arc", Result: string(c.Result), Reason: c.Reason}
	if c.Result == Pass {
		f.Domain = c.Sets[len(c.Sets)-1].Domain
		f.Props = []mail.Property{{Type: "header", Name: "oldest-pass", Value: strconv.Itoa(c.OldestPass)}}
	}
	return f
}

// Config is how strict a Verifier is.
type Config struct {
	// MinRSABits is the smallest RSA key that is believed; 0, and what is
	// below it, is 1024.
	MinRSABits int
	// LookupTimeout bounds the search for all keys of a message; 0 is 10
	// seconds.
	LookupTimeout time.Duration
}

// Verifier verifies chains. It may be used concurrently.
type Verifier struct {
	cfg      Config
	resolver dkim.Resolver
}

// NewVerifier returns a Verifier that asks a resolver for keys.
func NewVerifier(cfg Config, resolver dkim.Resolver) *Verifier {
	cfg.MinRSABits = max(cfg.MinRSABits, 1024)
	if cfg.LookupTimeout <= 0 {
		cfg.LookupTimeout = 10 * time.Second
	}
	return &Verifier{cfg, resolver}
}

// Verify verifies the chain of a message: its header fields, the topmost first
// and without what we wrote ourselves, and its body, which is read at most once.
// The error is the body's.
func (v *Verifier) Verify(ctx context.Context, fields []mail.Field, body io.Reader) (*Chain, error) {
	sets, highest, err := collect(fields)
	c := &Chain{Result: None, Sets: sets, highest: highest}
	if errors.Is(err, errNone) {
		return c, nil
	}
	if err == nil {
		err = checkStates(sets)
	}
	if err != nil {
		return c.failed(err), nil
	}
	keys, err := v.findKeys(ctx, sets)
	if err != nil {
		c.Result, c.Reason = TempError, err.Error()
		return c, nil
	}
	m := &message{fields: fields, header: dkim.NewHeader(fields), sets: sets, keys: keys, minBits: v.cfg.MinRSABits}
	holds, err := m.signaturesHold(body)
	if err != nil {
		return nil, err
	}
	newest := len(sets) - 1
	if !holds[newest] {
		return c.failed(fmt.Errorf("set %d: its message signature does not hold: the message was changed since", newest+1)), nil
	}
	digests := m.sealDigests()
	for i := newest; i >= 0; i-- {
		if !m.fits(sets[i].as, digests[i]) {
			return c.failed(fmt.Errorf("set %d: its seal does not hold", i+1)), nil
		}
	}
	c.Result = Pass
	c.Open = sets[newest].ams.BodyLimit != dkim.WholeBody || sets[newest].ams.UncoveredTwin(m.header) != ""
	for i := newest; i >= 0 && holds[i]; i-- {
		c.OldestPass = i + 1
	}
	if c.OldestPass == 1 {
		c.OldestPass = 0
	}
	return c, nil
}

// Known returns the chain of a message whose state is known from an earlier look
// at it, before its content was changed. A chain whose sets cannot be read any
// more has failed.
func Known(fields []mail.Field, result Result) *Chain {
	sets, highest, err := collect(fields)
	c := &Chain{Result: result, Sets: sets, highest: highest}
	switch {
	case errors.Is(err, errNone):
		c.Result = None
	case err != nil:
		return c.failed(err)
	case result == None:
		return c.failed(errors.New("the chain was added later"))
	}
	return c
}

func (c *Chain) failed(why error) *Chain {
	c.Result, c.Reason = Fail, why.Error()
	return c
}

// checkStates checks what the sets say of those before them (RFC 8617 section
// 5.2, steps 2 and 3).
func checkStates(sets []Set) error {
	for i, s := range sets {
		switch {
		case s.CV == "fail":
			return fmt.Errorf("set %d: its sealer found the chain broken", i+1)
		case i == 0 && s.CV != "none", i > 0 && s.CV != "pass":
			return fmt.Errorf("set %d: cv=%s in this place", i+1, s.CV)
		}
	}
	return nil
}

// answer is what the DNS said of one key.
type answer struct {
	keys []*dkim.PublicKey
	err  error
}

// findKeys asks for the keys of all sets at once. The error is an outage that
// matters: keys of old message signatures do not.
func (v *Verifier) findKeys(ctx context.Context, sets []Set) (map[string]*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.LookupTimeout)
	defer cancel()
	answers := map[string]*answer{}
	var asking sync.WaitGroup
	limit := make(chan struct{}, maxLookups)
	ask := func(s *dkim.Signature) {
		name := dkim.RecordName(s.Selector, s.Domain)
		if answers[name] != nil {
			return
		}
		a := &answer{}
		answers[name] = a
		asking.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			a.keys, a.err = dkim.LookUpKeys(ctx, v.resolver, s.Selector, s.Domain)
		})
	}
	for i := range sets {
		ask(sets[i].as)
		if sets[i].ams != nil {
			ask(sets[i].ams)
		}
	}
	asking.Wait()
	for i := range sets {
		needed := []*dkim.Signature{sets[i].as}
		if i == len(sets)-1 {
			needed = append(needed, sets[i].ams)
		}
		for _, s := range needed {
			var outage *dkim.Outage
			if errors.As(answers[dkim.RecordName(s.Selector, s.Domain)].err, &outage) {
				return nil, fmt.Errorf("set %d: its key cannot be looked up now", i+1)
			}
		}
	}
	return answers, nil
}

// maxLookups bounds the questions that are open at once.
const maxLookups = 8

// message is a message whose chain is verified.
type message struct {
	fields  []mail.Field
	header  *dkim.Header
	sets    []Set
	keys    map[string]*answer
	minBits int
}

// fits tells whether a signature of a digest is that of a key of its domain.
func (m *message) fits(s *dkim.Signature, digest [sha256.Size]byte) bool {
	a := m.keys[dkim.RecordName(s.Selector, s.Domain)]
	if a == nil || a.err != nil {
		return false
	}
	for _, key := range a.keys {
		if result, _ := key.Fits(s.Algorithm, m.minBits); result == "" && key.Verify(digest, s.Value) {
			return true
		}
	}
	return false
}

// signaturesHold tells of each set whether its message signature holds.
func (m *message) signaturesHold(body io.Reader) ([]bool, error) {
	hasher := &dkim.BodyHasher{}
	numbers := make([]int, len(m.sets))
	wanted := 0
	for i := range m.sets {
		numbers[i] = -1
		s := m.sets[i].ams
		if s != nil && m.fits(s, s.HeaderDigest(m.header, m.sets[i].signature, m.sets[i].signatureTags)) {
			numbers[i] = hasher.Want(s.BodyCanon, s.BodyLimit)
			wanted++
		}
	}
	holds := make([]bool, len(m.sets))
	if wanted == 0 {
		return holds, nil
	}
	_, err := hasher.ReadFrom(body)
	hasher.Close()
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	for i, number := range numbers {
		if number >= 0 {
			sum := hasher.Sum(number)
			holds[i] = bytes.Equal(sum[:], m.sets[i].ams.BodyHash)
		}
	}
	return holds, nil
}

// sealDigests hashes what each seal covers: all sets up to its own, without its
// b= (RFC 8617 section 5.1.1).
func (m *message) sealDigests() [][sha256.Size]byte {
	digests := make([][sha256.Size]byte, len(m.sets))
	all := sha256.New()
	var line []byte
	for i := range m.sets {
		s := &m.sets[i]
		all.Write(appendLine(line[:0], m.fields[s.results]))
		all.Write(appendLine(line[:0], m.fields[s.signature]))
		own, err := all.(hash.Cloner).Clone()
		if err != nil {
			panic("sha256 cannot be cloned: " + err.Error()) // it always can
		}
		own.Write(dkim.AppendField(line[:0], m.fields[s.seal].Name()+":"+s.sealTags.Without("b"), dkim.Relaxed))
		own.Sum(digests[i][:0])
		all.Write(appendLine(line[:0], m.fields[s.seal]))
	}
	return digests
}

func appendLine(dst []byte, f mail.Field) []byte {
	return append(dkim.AppendField(dst, f, dkim.Relaxed), '\r', '\n')
}
