package arc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// The names of the fields of a set, in lower case.
const (
	sealField      = "arc-seal"
	signatureField = "arc-message-signature"
	resultsField   = "arc-authentication-results"
)

// MaxSets is how many sets a chain may have (RFC 8617 section 4.2.1).
const MaxSets = 50

// Set is one link of a chain: what one server says it saw, and its signatures.
type Set struct {
	Instance int    // from 1
	Domain   string // that sealed it
	Selector string // of the seal
	// CV is what the sealer found the chain before it to be: "none" in the
	// first, "pass" after it, or "fail".
	CV string
	// Results is what the sealer's Authentication-Results were, unverified
	// words of its: an authserv-id and results.
	Results string

	seal, signature, results int // places among the fields
	sealTags, signatureTags  dkim.Tags
	as, ams                  *dkim.Signature
}

// parsed is one field of a set while they are collected.
type parsed struct {
	at       int
	instance int
	tags     dkim.Tags
	results  string
}

// errNone tells that a message has no chain.
var errNone = errors.New("no ARC sets")

// collect finds the sets of a message, the first first, and checks that they
// make a chain as far as that shows without keys (RFC 8617 section 5.2, steps
// 1 to 3). highest is the largest instance that was seen.
func collect(fields []mail.Field) (sets []Set, highest int, err error) {
	found := map[string][]parsed{}
	for i, f := range fields {
		name := strings.ToLower(f.Name())
		if name != sealField && name != signatureField && name != resultsField {
			continue
		}
		if len(found[name]) == MaxSets {
			return nil, MaxSets, fmt.Errorf("more than %d ARC sets", MaxSets)
		}
		p, bad := parseField(name, f)
		p.at = i
		found[name] = append(found[name], p)
		highest = max(highest, p.instance)
		if bad != nil && err == nil {
			err = fmt.Errorf("%s: %w", f.Name(), bad)
		}
	}
	if len(found) == 0 {
		return nil, 0, errNone
	}
	if err != nil {
		return nil, highest, err
	}
	sets = make([]Set, highest)
	for name, list := range found {
		if err := place(sets, name, list); err != nil {
			return nil, highest, err
		}
	}
	if len(found) < 3 {
		return nil, highest, errors.New("a set lacks a field")
	}
	for i := range sets {
		if err := sets[i].read(i+1 == highest); err != nil {
			return sets, highest, fmt.Errorf("set %d: %w", i+1, err)
		}
	}
	return sets, highest, nil
}

// place puts the fields of a name into their sets: one into each.
func place(sets []Set, name string, list []parsed) error {
	if len(list) != len(sets) {
		return fmt.Errorf("%d sets, but %d fields %s", len(sets), len(list), name)
	}
	seen := make([]bool, len(sets))
	for _, p := range list {
		at := p.instance - 1
		if seen[at] {
			return fmt.Errorf("two fields %s with i=%d", name, p.instance)
		}
		seen[at] = true
		s := &sets[at]
		s.Instance = p.instance
		switch name {
		case sealField:
			s.seal, s.sealTags = p.at, p.tags
		case signatureField:
			s.signature, s.signatureTags = p.at, p.tags
		case resultsField:
			s.results, s.Results = p.at, p.results
		}
	}
	return nil
}

const maxFieldOctets = 16 << 10

func parseField(name string, f mail.Field) (p parsed, err error) {
	value := f.Value()
	if len(value) > maxFieldOctets && name != resultsField {
		return p, fmt.Errorf("longer than %d octets", maxFieldOctets)
	}
	instance := ""
	if name == resultsField {
		tag, rest, ok := strings.Cut(value, ";")
		word, number, equals := strings.Cut(tag, "=")
		if !ok || !equals || strings.TrimSpace(word) != "i" {
			return p, errors.New("does not begin with i= and a semicolon")
		}
		instance, p.results = strings.TrimSpace(number), strings.TrimSpace(rest)
	} else {
		if p.tags, err = dkim.ParseTags(value); err != nil {
			return p, err
		}
		instance, _ = p.tags.Get("i")
	}
	n, err := strconv.ParseUint(instance, 10, 8)
	if err != nil || n < 1 || n > MaxSets || instance[0] == '+' {
		return p, fmt.Errorf("i= is not from 1 to %d", MaxSets)
	}
	p.instance = int(n)
	return p, nil
}

// read checks what the two signatures of a set say. The message signature is
// checked in the newest set only: those before it need not hold any more, and
// are only looked at to learn which do.
func (s *Set) read(newest bool) error {
	if err := s.readSeal(); err != nil {
		return fmt.Errorf("ARC-Seal: %w", err)
	}
	if err := s.readSignature(); err != nil {
		s.ams = nil
		if newest {
			return fmt.Errorf("ARC-Message-Signature: %w", err)
		}
	}
	return nil
}

func (s *Set) readSeal() error {
	if _, has := s.sealTags.Get("h"); has {
		return errors.New("has h=, which it must not have")
	}
	cv, _ := s.sealTags.Get("cv")
	if cv != "none" && cv != "pass" && cv != "fail" {
		return errors.New("cv= is neither none, pass nor fail")
	}
	s.CV = cv
	var err error
	s.as, err = signature(s.sealTags)
	s.Domain, s.Selector = s.as.Domain, s.as.Selector
	return err
}

func (s *Set) readSignature() error {
	var err error
	if s.ams, err = signature(s.signatureTags); err != nil {
		return err
	}
	if _, given := s.signatureTags.Get("c"); !given {
		// RFC 6376 would take it as simple/simple. Those who leave it out in ARC
		// mean what everybody uses, as the ValiMail suite says.
		s.ams.HeaderCanon, s.ams.BodyCanon = dkim.Relaxed, dkim.Relaxed
	}
	for _, name := range []string{"bh", "h"} {
		if value, ok := s.signatureTags.Get(name); !ok || value == "" && name == "bh" {
			return fmt.Errorf("has no %s=", name)
		}
	}
	if s.ams.Covers(sealField) {
		return errors.New("covers ARC-Seal, which it must not")
	}
	return nil
}

// signature reads the tags that both signatures have.
func signature(tags dkim.Tags) (*dkim.Signature, error) {
	s, err := dkim.FromTags(tags)
	if err != nil {
		return s, err
	}
	if algorithm, _ := tags.Get("a"); algorithm != string(dkim.RSASHA256) && algorithm != string(dkim.Ed25519SHA256) {
		return s, errors.New("algorithm is unknown")
	}
	if !dkim.IsDomain(s.Domain) || !dkim.IsSelector(s.Selector) {
		return s, errors.New("d= or s= is no name")
	}
	return s, nil
}
