// Package srs rewrites reverse-paths by the Sender Rewriting Scheme, so that
// mail forwarded to another domain is sent under a domain of ours, whose SPF
// record names us, and bounces find their way back:
//
//	alice@example.org                    the sender
//	SRS0=HHHH=TT=example.org=alice@us    after one forwarder
//	SRS1=HHHH=one=(=HHHH=TT=...)@us      after two; the bounce goes past us to the first
//
// HHHH is a keyed hash of what follows, TT the day. Nobody without a key can
// make us send mail to an address of his choice, and what we signed is good
// for some weeks only. The forms and the hash are those of the draft and of
// what is in the field (Mail::SRS, libsrs2, PostSRSd): with the same key,
// addresses of one are read by the other.
//
// It is pure: no I/O and no clock.
package srs

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// What Decode says of an address it does not take.
var (
	// ErrNotSRS means that the local-part has none of the forms.
	ErrNotSRS = errors.New("not an SRS address")
	// ErrForged means that none of the keys made the hash.
	ErrForged = errors.New("SRS address is not of our making")
	// ErrExpired means that the address was made too long ago.
	ErrExpired = errors.New("SRS address has expired")
	// ErrTooLong means that the rewritten address would not fit into a path.
	ErrTooLong = errors.New("rewritten address would be too long")
)

// The bounds of HashOctets.
const (
	MinHashOctets = 4
	MaxHashOctets = 20
)

// DefaultMaxAge is how long an address is good for when nothing is said.
const DefaultMaxAge = 21 * 24 * time.Hour

// MaxMaxAge bounds the age: the day in the address comes round again.
const MaxMaxAge = time.Duration(days/2) * 24 * time.Hour

// Config says how addresses are made.
type Config struct {
	// Domain is the one that rewritten addresses are in. Required.
	Domain mail.Domain
	// Keys sign and verify: the first one signs, all are believed. At least
	// one.
	Keys [][]byte
	// Separator stands after SRS0 and SRS1 and is one of = + -; 0 is '='. All
	// are read.
	Separator byte
	// MaxAge is how long an address is good for, in whole days; 0 is
	// DefaultMaxAge.
	MaxAge time.Duration
	// HashOctets is the length of the hash; 0 is MinHashOctets. Shorter ones
	// are not believed.
	HashOctets int
}

// Rewriter makes and reads addresses. It may be used concurrently and never
// changes.
type Rewriter struct{ cfg Config }

// New returns a Rewriter.
func New(cfg Config) (*Rewriter, error) {
	if cfg.Separator == 0 {
		cfg.Separator = '='
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.HashOctets == 0 {
		cfg.HashOctets = MinHashOctets
	}
	if d, err := mail.ParseDomain(string(cfg.Domain)); err != nil || d.IsLiteral() {
		return nil, fmt.Errorf("SRS needs a domain, not %q", cfg.Domain)
	}
	switch {
	case len(cfg.Keys) == 0:
		return nil, errors.New("SRS needs a key")
	case !isSeparator(cfg.Separator):
		return nil, fmt.Errorf("SRS separator %q is none of = + -", cfg.Separator)
	case cfg.MaxAge < 24*time.Hour || cfg.MaxAge > MaxMaxAge:
		return nil, fmt.Errorf("SRS addresses live from one day to %d days", MaxMaxAge/(24*time.Hour))
	case cfg.HashOctets < MinHashOctets || cfg.HashOctets > MaxHashOctets:
		return nil, fmt.Errorf("SRS hash has from %d to %d octets", MinHashOctets, MaxHashOctets)
	}
	for i, key := range cfg.Keys {
		if len(key) == 0 {
			return nil, fmt.Errorf("SRS key %d is empty", i+1)
		}
	}
	return &Rewriter{cfg}, nil
}

// Domain is the one that rewritten addresses are in.
func (r *Rewriter) Domain() mail.Domain { return r.cfg.Domain }

// IsSRS reports whether a local-part has the look of a rewritten one, genuine
// or not.
func IsSRS(local mail.LocalPart) bool {
	_, _, ok := form(string(local))
	return ok
}

// Encode returns the reverse-path to forward mail of sender under. A sender
// that another forwarder rewrote goes into the form that leads back to the
// first one. ErrTooLong leaves the caller to send as it is. The null
// reverse-path and addresses in our own domain stay as they are.
func (r *Rewriter) Encode(sender mail.Address, now time.Time) (mail.Address, error) {
	if sender.IsNull() || sender.Domain == "" || sender.Domain == r.cfg.Domain {
		return sender, nil
	}
	local := string(sender.Local)
	sep := string(r.cfg.Separator)
	digit, rest, ok := form(local)
	switch {
	case ok && digit == '1':
		// Past whoever sent it here: the bounce goes to the first forwarder.
		if _, host, opaque, ok := cut3(rest[1:]); ok {
			local = "SRS1" + sep + r.sign(host, opaque) + "=" + host + "=" + opaque
			break
		}
		local = r.wrap(sep, string(sender.Domain), local, now)
	case ok:
		host := string(sender.Domain)
		local = "SRS1" + sep + r.sign(host, rest) + "=" + host + "=" + rest
	default:
		local = r.wrap(sep, string(sender.Domain), local, now)
	}
	a := mail.Address{Local: mail.LocalPart(local), Domain: r.cfg.Domain}
	if len(a.Path()) > mail.MaxPathOctets {
		return mail.Address{}, fmt.Errorf("%w: %d octets", ErrTooLong, len(a.Path()))
	}
	return a, nil
}

// wrap makes the local-part of the first form.
func (r *Rewriter) wrap(sep, host, local string, now time.Time) string {
	day := stamp(now)
	return "SRS0" + sep + r.sign(day, host, local) + "=" + day + "=" + host + "=" + local
}

// Decode returns the address behind a rewritten one of ours: the sender's, or
// the first forwarder's. Errors are ErrNotSRS, ErrForged and ErrExpired.
func (r *Rewriter) Decode(local mail.LocalPart, now time.Time) (mail.Address, error) {
	digit, rest, ok := form(string(local))
	if !ok {
		return mail.Address{}, ErrNotSRS
	}
	if digit == '1' {
		return r.decodeSecond(rest[1:])
	}
	hash, day, tail, ok := cut3(rest[1:])
	if !ok {
		return mail.Address{}, ErrForged
	}
	host, user, ok := strings.Cut(tail, "=")
	if !ok || !r.genuine(hash, day, host, user) {
		return mail.Address{}, ErrForged
	}
	if !r.fresh(day, now) {
		return mail.Address{}, ErrExpired
	}
	return address(user, host)
}

// decodeSecond reads hash=host=opaque, where opaque begins with the separator
// of the first form.
func (r *Rewriter) decodeSecond(rest string) (mail.Address, error) {
	hash, host, opaque, ok := cut3(rest)
	if !ok || opaque == "" || !isSeparator(opaque[0]) || !r.genuine(hash, host, opaque) {
		return mail.Address{}, ErrForged
	}
	return address("SRS0"+opaque, host)
}

// address puts an address together from parts that a key of ours signed; that
// they make one is checked all the same.
func address(user, host string) (mail.Address, error) {
	domain, err := mail.ParseDomain(host)
	if err != nil || user == "" {
		return mail.Address{}, ErrForged
	}
	a, err := mail.ParseAddress(mail.Address{Local: mail.LocalPart(user), Domain: domain}.String())
	if err != nil {
		return mail.Address{}, ErrForged
	}
	return a, nil
}

// form tells the two forms: the digit after SRS, and what follows it,
// separator included.
func form(local string) (digit byte, rest string, ok bool) {
	if len(local) < 6 || !strings.EqualFold(local[:3], "SRS") || local[3] != '0' && local[3] != '1' || !isSeparator(local[4]) {
		return 0, "", false
	}
	return local[3], local[4:], true
}

func isSeparator(c byte) bool { return c == '=' || c == '+' || c == '-' }

func cut3(s string) (a, b, rest string, ok bool) {
	if a, s, ok = strings.Cut(s, "="); !ok {
		return "", "", "", false
	}
	b, rest, ok = strings.Cut(s, "=")
	return a, b, rest, ok && a != "" && b != "" && rest != ""
}

func (r *Rewriter) sign(parts ...string) string {
	return hash(r.cfg.Keys[0], parts)[:r.cfg.HashOctets]
}

// genuine reports whether one of the keys made the hash. Letter case does not
// count: mail systems on the way may have changed it.
func (r *Rewriter) genuine(claimed string, parts ...string) bool {
	octets := len(claimed) // lower case may have another length
	if octets < r.cfg.HashOctets || octets > MaxHashOctets {
		return false
	}
	// Some write the hash in the alphabet that is safe in URLs.
	claimed = strings.ToLower(strings.NewReplacer("-", "+", "_", "/").Replace(claimed))
	for _, key := range r.cfg.Keys {
		want := strings.ToLower(hash(key, parts)[:octets])
		if hmac.Equal([]byte(want), []byte(claimed)) {
			return true
		}
	}
	return false
}

// hash is the one of the draft: HMAC-SHA-1 of the parts in lower case, base64.
func hash(key []byte, parts []string) string {
	mac := hmac.New(sha1.New, key)
	for _, part := range parts {
		mac.Write([]byte(strings.ToLower(part))) // never fails
	}
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

const (
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	days     = len(alphabet) * len(alphabet) // until the day comes round
)

func dayOf(now time.Time) int { return int(now.Unix()/86400) % days }

// stamp writes the day.
func stamp(now time.Time) string {
	day := dayOf(now)
	return string([]byte{alphabet[day/len(alphabet)], alphabet[day%len(alphabet)]})
}

// fresh reports whether a day is not longer ago than addresses live. One in
// the future, but for tomorrow, which another machine's clock may have, is
// not.
func (r *Rewriter) fresh(day string, now time.Time) bool {
	if len(day) != 2 {
		return false
	}
	high, low := strings.IndexByte(alphabet, upper(day[0])), strings.IndexByte(alphabet, upper(day[1]))
	if high < 0 || low < 0 {
		return false
	}
	age := (dayOf(now) - (high*len(alphabet) + low) + days) % days
	return age <= int(r.cfg.MaxAge/(24*time.Hour)) || age == days-1
}

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}
