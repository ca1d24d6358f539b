package arc

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// DefaultHeaders returns the fields that a message signature covers where the
// message has them: those of DKIM, and the DKIM signatures themselves (RFC 8617
// section 4.1.2).
func DefaultHeaders() []string { return append(dkim.DefaultHeaders(), dkim.SignatureField) }

// Sealer adds sets of ours to chains. It may be used concurrently.
type Sealer struct {
	headers []string
	// width is dkim.Folder's Base64Octets.
	width int
}

// NewSealer returns a Sealer whose message signatures cover these fields, where
// a message has them; nil is DefaultHeaders.
func NewSealer(headers []string) (*Sealer, error) {
	if headers == nil {
		headers = DefaultHeaders()
	}
	s := &Sealer{}
	for _, name := range headers {
		name = strings.ToLower(name)
		if name == sealField || name == signatureField || name == resultsField || name == "authentication-results" {
			return nil, fmt.Errorf("ARC does not sign the header field %q", name)
		}
		if !slices.Contains(s.headers, name) {
			s.headers = append(s.headers, name)
		}
	}
	return s, nil
}

// Why a message gets no set of ours.
var (
	// ErrBroken is a chain whose last set says already that it failed: nobody
	// adds to it.
	ErrBroken = errors.New("the chain of the message has failed before")
	// ErrUnknown is a chain that could not be verified now.
	ErrUnknown = errors.New("the chain of the message cannot be verified now")
	// ErrFull is a chain of 50 sets.
	ErrFull = errors.New("the chain of the message has no room for another set")
)

// Seal returns the fields of a new set, to stand on top of the message in this
// order: ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results. The fields
// are those of the message as it leaves us, without what we wrote ourselves
// before that is not to be covered; chain is what Verify said of it as it came;
// results is what stands in our Authentication-Results: an authserv-id and
// results. The body is read once.
func (s *Sealer) Seal(fields []mail.Field, body io.Reader, chain *Chain, results string, key *dkim.Key) ([]mail.Field, error) {
	return s.seal(fields, body, chain, results, key, time.Now())
}

func (s *Sealer) seal(fields []mail.Field, body io.Reader, chain *Chain, results string, key *dkim.Key, at time.Time) ([]mail.Field, error) {
	cv, err := state(chain)
	if err != nil {
		return nil, err
	}
	instance := strconv.Itoa(chain.highest + 1)
	now := strconv.FormatInt(at.Unix(), 10)
	findings := mail.Field("ARC-Authentication-Results: i=" + instance + "; " + strings.TrimSpace(results))
	signature, err := s.sign(fields, body, instance, now, key)
	if err != nil {
		return nil, err
	}
	var data []byte
	if cv != "fail" { // a seal on a broken chain covers its own set alone (section 5.1.2)
		for i := range chain.Sets {
			data = appendLine(data, fields[chain.Sets[i].results])
			data = appendLine(data, fields[chain.Sets[i].signature])
			data = appendLine(data, fields[chain.Sets[i].seal])
		}
	}
	data = appendLine(data, findings)
	data = appendLine(data, signature)
	write := func(value string) mail.Field {
		f := dkim.NewFolder("ARC-Seal:")
		f.Base64Octets = s.width
		f.Add("a=" + string(key.Algorithm) + ";")
		f.Base64("b=", value, ";")
		for _, tag := range []string{"cv=" + cv, "d=" + key.Domain, "i=" + instance, "s=" + key.Selector} {
			f.Add(tag + ";")
		}
		f.Add("t=" + now)
		return mail.Field(f.String())
	}
	value, err := key.Sign(sha256.Sum256(dkim.AppendField(data, write(""), dkim.Relaxed)))
	if err != nil {
		return nil, err
	}
	return []mail.Field{write(value), signature, findings}, nil
}

// state returns cv= for a set after a chain.
func state(chain *Chain) (string, error) {
	if chain.highest >= MaxSets {
		return "", ErrFull
	}
	switch chain.Result {
	case TempError:
		return "", ErrUnknown
	case None:
		return "none", nil
	case Pass:
		return "pass", nil
	}
	if n := len(chain.Sets); n > 0 && chain.Sets[n-1].CV == "fail" {
		return "", ErrBroken
	}
	return "fail", nil
}

// sign makes the message signature.
func (s *Sealer) sign(fields []mail.Field, body io.Reader, instance, now string, key *dkim.Key) (mail.Field, error) {
	header := dkim.NewHeader(fields)
	var names []string
	for _, name := range s.headers {
		names = append(names, slices.Repeat([]string{name}, min(header.Count(name), maxOfOneName))...)
	}
	hasher := &dkim.BodyHasher{}
	number := hasher.Want(dkim.Relaxed, dkim.WholeBody)
	_, err := hasher.ReadFrom(body)
	hasher.Close()
	if err != nil {
		return "", fmt.Errorf("read the message: %w", err)
	}
	sum := hasher.Sum(number)
	write := func(value string) mail.Field {
		f := dkim.NewFolder("ARC-Message-Signature:")
		f.Base64Octets = s.width
		f.Add("a=" + string(key.Algorithm) + ";")
		f.Base64("b=", value, ";")
		f.Add("bh=" + base64.StdEncoding.EncodeToString(sum[:]) + ";")
		f.Add("c=relaxed/relaxed;")
		f.Add("d=" + key.Domain + ";")
		f.Names("h=", names)
		f.Add("i=" + instance + ";")
		f.Add("s=" + key.Selector + ";")
		f.Add("t=" + now)
		return mail.Field(f.String())
	}
	data := header.AppendNamed(nil, names, dkim.Relaxed, -1)
	value, err := key.Sign(sha256.Sum256(dkim.AppendField(data, write(""), dkim.Relaxed)))
	if err != nil {
		return "", err
	}
	return write(value), nil
}

// maxOfOneName bounds how many fields of one name are signed; the lowest are.
const maxOfOneName = 10
