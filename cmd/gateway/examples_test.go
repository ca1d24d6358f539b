package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/postern-mail/postern/testdata/ldif"
)

var (
	systemPath = regexp.MustCompile(`/etc/postern/[a-zA-Z0-9_./-]+`)
	hclBlock   = regexp.MustCompile("(?ms)^```hcl\n(.*?)^```$")
)

// checkHere checks a configuration that is meant for a real machine as config
// check does: the files it names under /etc/postern are made in a folder.
func checkHere(t *testing.T, name, text string) {
	t.Helper()
	s := newSite(t, "", nil)
	text = systemPath.ReplaceAllStringFunc(text, func(path string) string {
		here := filepath.Join(s.Dir, filepath.Base(path))
		content := []byte("secret\n")
		switch filepath.Ext(path) {
		case ".crt", ".pem":
			if _, err := os.Stat(here); err == nil {
				return here // the site's own certificate and key
			}
			cert, err := os.ReadFile(filepath.Join(s.Dir, "cert.pem"))
			must(t, err)
			content = cert
		case ".ldif":
			content = ldif.OpenLDAP().LDIF
		case ".keytab":
			keys := keytab.New()
			must(t, keys.AddEntry("postern/mx.example.com", "EXAMPLE.COM", "secret", time.Unix(1, 0), 1, etypeID.AES256_CTS_HMAC_SHA1_96))
			var err error
			content, err = keys.Marshal()
			must(t, err)
		case ".keys", ".secret":
			content = []byte("a key of the length that is asked for\n")
		case ".d":
			must(t, os.MkdirAll(here, 0o700))
			return here
		case "":
			content = nil // a table
		}
		must(t, os.WriteFile(here, content, 0o600))
		return here
	})
	must(t, os.WriteFile(s.Config, []byte(text), 0o600))
	if out, err := command(t.Context(), "config", "check", "-c", s.Config); err != nil || !strings.Contains(out, "no mistakes") {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// TestExamples: what we give people to begin with is right.
func TestExamples(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../../deploy/examples/*.hcl")
	must(t, err)
	if len(examples) < 5 {
		t.Fatalf("only %q found", examples)
	}
	for _, path := range examples {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			checkHere(t, path, read(t, path))
		})
	}
}

// surroundings and corp make a whole of the part of a configuration that a
// document shows.
const (
	surroundings = `
hostname = "mail.example.com"
tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}
`
	servers = `
  uris = ["ldaps://ldap.example.com"]
  base = "dc=example,dc=com"
`
	corp = "directory \"ldap\" \"corp\" {" + servers + "}\n"
)

// leftOut is how documents stand for what every directory has.
var leftOut = regexp.MustCompile(`(?m)^ *# uris, base\b.*$`)

// TestDocumentsShowConfigurations: every block of HCL in a document holds.
func TestDocumentsShowConfigurations(t *testing.T) {
	t.Parallel()
	documents := []string{"../../README.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md", "../../deploy/*.md"} {
		found, err := filepath.Glob(pattern)
		must(t, err)
		documents = append(documents, found...)
	}
	shown := 0
	for _, path := range documents {
		for _, m := range hclBlock.FindAllStringSubmatch(read(t, path), -1) {
			shown++
			text := whole(m[1])
			t.Run(filepath.Base(path), func(t *testing.T) {
				t.Parallel()
				checkHere(t, path, text)
			})
		}
	}
	if shown < 3 {
		t.Fatalf("only %d blocks found: the test looks for the wrong thing", shown)
	}
}

// whole completes what a document shows: a configuration, blocks of one, or
// blocks of its gateway.
func whole(text string) string {
	const listener = "gateway {\n  listener \"mx\" { bind = [\":25\"] }\n"
	around := surroundings
	if !strings.Contains(text, `directory "ldap" "corp"`) {
		around += corp
	}
	isBackend := strings.HasPrefix(text, "backend {")
	if isBackend && !strings.Contains(text, "  listener ") {
		text = strings.Replace(text, "{\n", "{\n  listener \"imap\" { bind = [\":143\"] }\n", 1)
	}
	if strings.HasPrefix(text, "auth_server ") || isBackend && !strings.Contains(text, "\nauthn ") {
		around += "authn \"ldap\" { directory = directory.corp }\n"
	}
	text = leftOut.ReplaceAllString(text, servers)
	switch first, _, _ := strings.Cut(strings.TrimSpace(text), " "); {
	case strings.HasPrefix(text, "hostname =") || strings.Contains(text, "\nhostname ="):
		return text
	case first == "gateway":
		return around + strings.Replace(text, "gateway {\n", listener, 1)
	case first == "policy" || first == "domains" || first == "target" || first == "listener" || first == "queue":
		return around + listener + text + "}\n"
	case strings.Contains(text, "\ngateway {"):
		return around + text
	default:
		return around + listener + "}\n" + text
	}
}
