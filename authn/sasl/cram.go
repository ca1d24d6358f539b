package sasl

import (
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// maxCRAMOctets bounds a response of CRAM-MD5: a name and a digest.
const maxCRAMOctets = authn.MaxLoginOctets + 1 + 2*md5.Size

var errWrongDigest = errors.New("wrong digest of the password")

// cramMD5 sends the challenge of CRAM-MD5 (RFC 2195). Clients send nothing
// before it.
func (x *Exchange) cramMD5(response []byte) ([]byte, step, error) {
	if response != nil {
		return nil, nil, status.New(status.ParameterSyntax, errMalformed)
	}
	challenge := "<" + rand.Text() + "@" + cmp.Or(x.mechanisms.cfg.Hostname, "localhost") + ">"
	return []byte(challenge), func(response []byte) ([]byte, step, error) {
		login, digest, ok := parseCRAM(string(response))
		if !ok {
			return nil, nil, status.New(status.ParameterSyntax, errMalformed)
		}
		return nil, nil, x.checkCRAM(challenge, login, digest)
	}, nil
}

// parseCRAM splits "login digest"; the digest has no space.
func parseCRAM(response string) (login string, digest []byte, ok bool) {
	i := strings.LastIndexByte(response, ' ')
	if i < 1 {
		return "", nil, false
	}
	digest, err := hex.DecodeString(response[i+1:])
	return response[:i], digest, err == nil && len(digest) == md5.Size
}

func (x *Exchange) checkCRAM(challenge, login string, digest []byte) error {
	v := authn.Vouched{Login: login, By: authn.ByCRAM}
	held, err := x.mechanisms.deps.Keys.Held(x.ctx, login, authn.FormCleartext)
	if err != nil {
		return x.refuse(v, err)
	}
	password, cleartext := strings.CutPrefix(held.Stored, "{"+authn.FormCleartext+"}")
	mac := hmac.New(md5.New, []byte(password))
	mac.Write([]byte(challenge))
	same := hmac.Equal(mac.Sum(nil), digest)
	switch {
	case !held.Known() || !cleartext:
		return x.refuse(v, status.New(status.AuthFailed, cmp.Or(held.Why, error(authn.ErrNoForm))))
	case !same:
		v.Held = held
		return x.refuse(v, status.New(status.AuthFailed, errWrongDigest))
	}
	v.Held = held
	return x.vouch(v)
}
