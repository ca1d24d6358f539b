package file

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postern-mail/postern/authn"
)

// Limits on a password file.
const (
	maxLineOctets = 4096
	maxEntries    = 1_000_000
)

// table is a parsed password file.
type table struct {
	entries map[string]authn.Hash
	logins  []string // in file order, to choose a likeness from
	forms   forms
	limits  map[string]limit // of the few logins that have one
}

// parsePasswd reads lines of "login:hash", with hash as authn.Hasher takes it.
// Of what follows a second colon only the extra fields of Dovecot's passwd-files
// count that limit logins, so that these and shadow files can be used as they
// are. Blank lines and lines that begin with
// "#" are skipped. All mistakes are reported at once, each with name and line,
// and none shows a hash.
func parsePasswd(name string, r io.Reader, hasher *authn.Hasher) (*table, error) {
	t := &table{entries: map[string]authn.Hash{}, limits: map[string]limit{}}
	firstAt := map[string]int{}
	var mistakes []error
	mistake := func(line int, err error) {
		const most = 20
		if len(mistakes) < most {
			mistakes = append(mistakes, fmt.Errorf("%s:%d: %w", name, line, err))
		}
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineOctets)
	number := 0
	for lines.Scan() {
		number++
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		login, hash, rest, err := parseLine(text, hasher)
		var bound limit
		var limited bool
		if err == nil {
			bound, limited, err = parseLimit(rest)
		}
		switch {
		case err != nil:
			mistake(number, err)
		case firstAt[login] != 0:
			mistake(number, fmt.Errorf("login %q stands already in line %d", login, firstAt[login]))
		case len(t.logins) == maxEntries:
			return nil, fmt.Errorf("%s:%d: more than %d logins", name, number, maxEntries)
		default:
			firstAt[login] = number
			t.entries[login] = hash
			t.logins = append(t.logins, login)
			if limited {
				t.limits[login] = bound
			}
			t.forms.add(hash)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		mistake(number+1, fmt.Errorf("line longer than %d octets", maxLineOctets))
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, errors.Join(mistakes...)
}

func parseLine(text string, hasher *authn.Hasher) (login string, hash authn.Hash, rest string, err error) {
	login, rest, found := strings.Cut(text, ":")
	if !found {
		return "", authn.Hash{}, "", errors.New("no colon between login and hash")
	}
	if login, err = authn.CanonicalLogin(login); err != nil {
		return "", authn.Hash{}, "", err
	}
	stored, _, _ := strings.Cut(rest, ":")
	// Shadow files mark accounts without a usable password so; no password
	// matches, but the login is known.
	if strings.HasPrefix(stored, "*") || strings.HasPrefix(stored, "!") {
		return login, authn.Decoy(), rest, nil
	}
	if hash, err = hasher.Parse(stored); err != nil {
		return "", authn.Hash{}, "", fmt.Errorf("login %q: %w (make one with \"postern password\")", login, err)
	}
	return login, hash, rest, nil
}
