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
	var ok bool
	if x.attempt.Authorization, x.attempt.Login, x.attempt.Password, ok = parsePlain(response); !ok {
		return nil, nil, status.New(status.ParameterSyntax, errMalformed)
	}
	return nil, nil, nil
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
	x.attempt.Login = string(response)
	return []byte("Password:"), x.loginPassword, nil
}

func (x *Exchange) loginPassword(response []byte) ([]byte, step, error) {
	x.attempt.Password = string(response)
	return nil, nil, nil
}
