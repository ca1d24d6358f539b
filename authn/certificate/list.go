package certificate

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
)

// maxListOctets bounds a file of fingerprints: some hundred thousand.
const maxListOctets = 64 << 20

// list is a file of fingerprints, read again when it changes. One that is
// wrong leaves the last good one in force: people go on logging in while
// somebody mends it.
type list struct {
	path   string
	log    hclog.Logger
	loaded atomic.Pointer[fingerprints]
}

// fingerprints are one text of the file. Immutable.
type fingerprints struct {
	logins  map[[sha256.Size]byte]string
	changed time.Time
	octets  int64
}

func openList(path string, log hclog.Logger) (*list, error) {
	if path == "" {
		return nil, errors.New("authn certificate: fingerprints need a file of them")
	}
	l := &list{path: path, log: log}
	read, err := l.read()
	if err != nil {
		return nil, err
	}
	l.loaded.Store(read)
	return l, nil
}

// login returns whose a certificate is; "" for nobody's.
func (l *list) login(print [sha256.Size]byte) string {
	now := l.loaded.Load()
	info, err := os.Stat(l.path)
	if err == nil && (!info.ModTime().Equal(now.changed) || info.Size() != now.octets) {
		next, err := l.read()
		if err != nil {
			l.log.Error("file of fingerprints cannot be used, its last good text stays in force", "path", l.path, "err", err)
			next = &fingerprints{now.logins, info.ModTime(), info.Size()}
		}
		l.loaded.Store(next)
		now = next
	}
	return now.logins[print]
}

func (l *list) read() (*fingerprints, error) {
	file, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxListOctets+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxListOctets {
		return nil, fmt.Errorf("%s: larger than %d octets", l.path, maxListOctets)
	}
	logins, err := parseList(l.path, text)
	if err != nil {
		return nil, err
	}
	return &fingerprints{logins, info.ModTime(), info.Size()}, nil
}

// parseList reads lines of "fingerprint login". Blank lines and those that
// begin with "#" are skipped.
func parseList(path string, text []byte) (map[[sha256.Size]byte]string, error) {
	logins := make(map[[sha256.Size]byte]string)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("%s:%d: want a fingerprint and a login", path, number)
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(fields[0], ":", ""))
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%s:%d: the fingerprint is not a SHA-256 in hexadecimal, as openssl x509 -fingerprint -sha256 prints it", path, number)
		}
		login, err := authn.CanonicalLogin(fields[1])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		print := [sha256.Size]byte(raw)
		if logins[print] != "" && logins[print] != login {
			return nil, fmt.Errorf("%s:%d: the fingerprint stands for %q already", path, number, logins[print])
		}
		logins[print] = login
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return logins, nil
}
