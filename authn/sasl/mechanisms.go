package sasl

import (
	"bytes"

	"github.com/postern-mail/postern/status"
)

// plain takes the one message of PLAIN.
func (x *Exchange) plain(response []byte) ([]byte, step, error) {
	if response == nil {
		return []byte{}, x.plain, nil
	}
	authorization, login, password, ok := parsePlain(response)
	if !ok {
		return nil, nil, status.New(status.ParameterSyntax, errMalformed)
	}
	return nil, nil, x.verify(authorization, login, password)
}

// parsePlain splits "[authzid] NUL authcid NUL passwd" (RFC 4616 section 2).
// No part holds a NUL, so none can be cut short further down.
func parsePlain(message []byte) (authorization, login, password string, ok bool) {
	if bytes.Count(message, []byte{0}) != 2 {
		return "", "", "", false
	}
	parts := bytes.Split(message, []byte{0})
	return string(parts[0]), string(parts[1]), string(parts[2]), true
}

// loginName takes the first response of LOGIN, which may come at once. Clients
// compare the challenges octet by octet, so they are what Exchange sends.
func (x *Exchange) loginName(response []byte) ([]byte, step, error) {
	if response == nil {
		return []byte("Username:"), x.loginName, nil
	}
	login := string(response)
	return []byte("Password:"), func(response []byte) ([]byte, step, error) {
		return nil, nil, x.verify("", login, string(response))
	}, nil
}
