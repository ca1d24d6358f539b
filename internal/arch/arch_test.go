// Package arch holds the map of rooms as a test: which package may import
// which. Changing the architecture means changing a row here, in the same
// commit, and saying why.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postern-mail/postern"

// everyone may import the vocabulary.
var everyone = []string{"mail", "status", "internal/..."}

// rooms says what each room may import of ours beyond the vocabulary and its
// own folders. A room's row covers the folders below it unless one has its own.
var rooms = map[string][]string{
	"mail":   {},
	"status": {},
	"smtp":   {},
	"smtpd":  {"smtp", "queue", "audit", "store", "policy", "policy/content", "rewrite"}, // rewrite: one implementation, and its words are smtpd's
	"queue":  {"audit", "store/..."},
	"audit":  {"store/..."},
	"store":  {},

	"authn":     {"store"}, // what is remembered of logins
	"directory": {"table"},

	"directory/replica": {"directory", "directory/index", "store"}, // keeps what it holds over restarts

	"policy":            {"table"},
	"policy/greylist":   {"policy", "policy/shared", "table"},
	"policy/delegation": {"policy"},
	"policy/shared":     {"store"}, // what gateways tell each other, kept over restarts
	"delivery":          {"smtp", "table"},
	"rewrite":           {"table"},
	"table":             {}, // the language of lookups, one for all who look things up

	"proxy": {"backend/sessions"}, // what it puts through is the backend's; it knows but the login, and runs where no mailboxes are

	"delivery/tlsrpt": {"delivery/tlspolicy", "store/..."},

	"policy/mailauth/dmarcrpt": {"policy/mailauth", "policy/mailauth/dmarc", "store/..."}, // counts that outlive the process

	"backend/mailstore": {"store/..."},
	"backend/lmtpd":     {"smtp", "backend/mailstore", "backend/mailstore/acl", "store/..."},
	"backend/sessions":  {}, // who is connected, of whatever protocol
	"backend/imapd":     {"backend/mailstore/...", "backend/sessions", "store/..."},
	"backend/pop3d":     {"backend/mailstore/...", "backend/sessions", "store/..."},
	"backend/replica":   {"backend/mailstore/...", "store/..."},
	"backend/operator":  {"backend/mailstore/...", "backend/imapd", "store/..."}, // imapd has the language of searches

	// link carries frames and knows nothing of mail.
	"backend/replica/link": {},

	"foreign": {"store/..."}, // its own state

	// transfer brings mailboxes in and out; it speaks to foreign servers with the mirror's client.
	"transfer": {"backend/mailstore/...", "store/...", "foreign/imap"},

	"admin":         {},
	"config":        {"..."},
	"cmd":           {"..."},
	"internal":      {"..."},
	"testdata/ldif": {},
}

// pure rooms import nothing of ours but the vocabulary, and do no I/O of
// their own: their row also bans these packages of the standard library.
var pure = map[string][]string{
	"mail":         {"net", "os"},
	"status":       {"net", "os"},
	"delivery/dsn": {"net", "os"},
	"rewrite/srs":  {"net", "os"},

	"backend/mailstore/uid": {"net", "os", "time"},
}

// notIn bans libraries outside their room.
var notIn = map[string][]string{
	"github.com/go-ldap/ldap/v3":       {"directory", "internal"},
	"github.com/go-sql-driver/mysql":   {"directory"},
	"github.com/jackc/pgx/v5":          {"directory"},
	"modernc.org/sqlite":               {"directory"},
	"github.com/miekg/dns":             {"internal"},
	"github.com/msteinert/pam/v2":      {"authn"},
	"github.com/cockroachdb/pebble/v2": {"store"},
	"github.com/hashicorp/hcl/v2":      {"config"},
	"github.com/emersion/go-smtp":      {"smtp", "cmd"},
	"github.com/emersion/go-imap/v2":   {"backend", "config", "cmd", "transfer"},
	"github.com/spf13/cobra":           {"cmd"},
	module + "/store/memory":           {"store"}, // forgets everything: for tests and simulations
	"github.com/emersion/go-msgauth":   {},        // tests compare with it
}

type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages listed: the test looks in the wrong place", len(all))
	}
	return all
}

// roomOf finds the row for a package: the longest that holds it.
func roomOf(pkg string) (string, bool) {
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if _, ok := rooms[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

func allowed(rule, pkg string) bool {
	if prefix, ok := strings.CutSuffix(rule, "..."); ok {
		return strings.HasPrefix(pkg+"/", prefix)
	}
	return rule == pkg
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		room, ok := roomOf(pkg)
		if !ok {
			t.Errorf("%s stands in no room: add a row and say what it may import", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			checkLibrary(t, pkg, imp)
			ours, ok := strings.CutPrefix(imp, module+"/")
			if !ok {
				continue
			}
			own := ours == room || strings.HasPrefix(ours, room+"/")
			rules := slices.Concat(everyone, rooms[room])
			if !own && !slices.ContainsFunc(rules, func(rule string) bool { return allowed(rule, ours) }) {
				t.Errorf("%s imports %s, which its room %q may not", pkg, ours, room)
			}
		}
	}
}

func checkLibrary(t *testing.T, pkg, imp string) {
	t.Helper()
	for library, homes := range notIn {
		if imp != library && !strings.HasPrefix(imp, library+"/") {
			continue
		}
		if !slices.ContainsFunc(homes, func(home string) bool { return strings.HasPrefix(pkg+"/", home+"/") }) {
			t.Errorf("%s imports %s, which belongs to %v", pkg, imp, homes)
		}
	}
	for room, banned := range pure {
		if (pkg == room || strings.HasPrefix(pkg, room+"/")) && slices.Contains(banned, imp) {
			t.Errorf("%s imports %s, but does no input or output", pkg, imp)
		}
	}
}
