package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

const rewriting = `
hostname = "host.Example.com"
directory "ldif" "people" {
  file = "$DIR/people.ldif"
  base = "dc=example,dc=com"
  table "outside" {
    use              = "rewrite"
    query_filter     = "(mail=%s)"
    result_attribute = "mailRoutingAddress"
  }
  table "aliases" {}
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  target "lmtp" "box" { address = ["unix:/run/x"] }
  mynetworks = ["192.0.2.0/24"]
  hopcount_limit = 30
  rewrite {
    append_dot_mydomain            = true
    local_header_rewrite_clients   = ["permit_mynetworks", "198.51.100.7/24"]
    canonical_maps                 = ["query:people/outside", "texthash:canonical"]
    masquerade_domains             = ["!lab.example.com", "example.com"]
    masquerade_exceptions          = "root"
    smtp_generic_maps              = "regexp:generic"
    propagate_unmatched_extensions = ["canonical", "generic"]
    always_bcc                     = "archive@example.com"
  }
  srs {
    domain       = "srs.example.com"
    secret_files = ["$DIR/new.key", "$DIR/old.key"]
    separator    = "+"
    max_age      = "10d"
    hash_length  = 6
  }
}
`

func rewritingFiles(text string) map[string]string {
	return map[string]string{
		"postern.hcl": text, "people.ldif": "dn: dc=example,dc=com\nobjectClass: domain\ndc: example\n",
		"canonical": "a@example.com b@example.com\n", "generic": "/^(.*)@x$/ $1@y.example\n",
		"new.key": "the new key of this year\n", "old.key": "the old key of last year\n",
	}
}

// What is changed behind a signature is told, with both places.
func TestWarningOfGenericMapsBehindSignatures(t *testing.T) {
	t.Parallel()
	const gateways, listeners = "  hopcount_limit = 30\n", "  listener \"mx\" { bind = [\"127.0.0.1:0\"] }\n"
	inList := func(steps string) string { return "  policy \"content\" {\n" + steps + "  }\n" }
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"no signature": {rewriting, nil},
		"in the gateway": {strings.Replace(rewriting, gateways, gateways+inList("    sign_dkim {}\n    seal_arc {}\n"), 1),
			[]string{"sign_dkim (", "seal_arc ("}},
		"in a listener": {strings.Replace(rewriting, listeners, "  listener \"mx\" {\n  bind = [\"127.0.0.1:0\"]\n"+inList("    sign_dkim {}\n")+"  }\n", 1),
			[]string{"sign_dkim ("}},
		"no map": {strings.Replace(strings.Replace(rewriting, gateways, gateways+inList("    sign_dkim {}\n"), 1),
			"    smtp_generic_maps              = \"regexp:generic\"\n", "", 1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := Load(write(t, rewritingFiles(c.text)))
			if err != nil {
				t.Fatal(err)
			}
			var told []string
			for _, w := range f.Warnings() {
				if strings.Contains(w, "smtp_generic_maps") {
					told = append(told, w)
				}
			}
			if len(told) != len(c.want) {
				t.Fatalf("told %q, want %q", told, c.want)
			}
			lines := strings.Split(c.text, "\n")
			for i, w := range told {
				var at int
				_, rest, _ := strings.Cut(w, ".hcl:")
				if _, err := fmt.Sscanf(rest, "%d:", &at); err != nil || !strings.Contains(lines[at-1], "smtp_generic_maps") {
					t.Errorf("%q does not say where the maps are", w)
				}
				_, rest, _ = strings.Cut(rest, ".hcl:")
				step := strings.TrimSuffix(c.want[i], " (")
				if _, err := fmt.Sscanf(rest, "%d)", &at); err != nil || !strings.Contains(lines[at-1], step) || !strings.Contains(w, c.want[i]) {
					t.Errorf("%q does not say where %s is", w, step)
				}
			}
		})
	}
}

func TestRewriting(t *testing.T) {
	t.Parallel()
	f, err := Load(write(t, rewritingFiles(rewriting)))
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	room := f.Gateway.Rewrite.Room(f, func(names []string) []table.Table {
		asked = append(asked, names...)
		return nil
	})
	if room.Origin != "host.example.com" || room.AppendDomain != "example.com" || room.HeaderClients.Authenticated ||
		len(room.HeaderClients.Networks) != 2 || room.HeaderClients.Networks[1].String() != "198.51.100.0/24" ||
		!room.PropagateCanonical || !room.PropagateGeneric || room.Delimiter != "+" || room.AlwaysBcc[0].String() != "archive@example.com" ||
		len(room.Canonical.Classes) != 4 || len(room.SenderCanonical.Classes) != 2 || len(room.MasqueradeClasses) != 3 {
		t.Errorf("%+v", room)
	}
	if strings.Join(asked, " ") != "query:people/outside texthash:canonical" {
		t.Errorf("asked for the tables %q", asked)
	}
	if dir, table, known := f.RewriteTable("query:people/outside"); !known || dir.Name != "people" || table.ForAliases() {
		t.Errorf("the table is %+v of %+v, %t", table, dir, known)
	}
	srs, err := f.Gateway.SRS.Room()
	if err != nil || srs.Domain != "srs.example.com" || len(srs.Keys) != 2 || string(srs.Keys[0]) != "the new key of this year" ||
		srs.Separator != '+' || srs.MaxAge.Hours() != 240 || srs.HashOctets != 6 {
		t.Errorf("%+v, %v", srs, err)
	}
	if f.SMTPListener("mx").Sessions(f).MaxHops != 30 {
		t.Error("the listener does not know hopcount_limit")
	}
	origin := f.SMTPListener("mx").Room(f, nil).Origin
	for remote, want := range map[string]mail.Domain{"198.51.100.7:25": "host.example.com", "203.0.113.7:25": ""} {
		if got := origin(&mail.Client{Remote: netip.MustParseAddrPort(remote)}); got != want {
			t.Errorf("a local-part alone from %s is one of %q", remote, got)
		}
	}
	f.Gateway.Rewrite.AppendOrigin = false
	if got := f.SMTPListener("mx").Room(f, nil).Origin(&mail.Client{Remote: netip.MustParseAddrPort("198.51.100.7:25")}); got != "" {
		t.Errorf("a local-part alone is one of %q although it must not be", got)
	}
}

// TestWithoutRewriting: a configuration from before has none of it.
func TestWithoutRewriting(t *testing.T) {
	t.Parallel()
	f, err := Load(write(t, map[string]string{"postern.hcl": `
hostname = "host.example.com"
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
}
`}))
	if err != nil {
		t.Fatal(err)
	}
	if f.Gateway.Rewrite != nil || f.Gateway.SRS != nil || f.SMTPListener("mx").Sessions(f).MaxHops != 50 {
		t.Errorf("%+v", f.Gateway)
	}
	if f.SMTPListener("mx").Room(f, nil).Origin != nil {
		t.Error("local-parts alone are taken")
	}
}

func TestRewritingMistakes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ old, text, want string }{
		{`"query:people/outside"`, `"query:people/aliases"`, "names no table"},
		{`"query:people/outside"`, `"query:nobody/outside"`, "names no table"},
		{`"texthash:canonical"`, `"texthash:absent"`, "no such file"},
		{`"texthash:canonical"`, `"texthash:generic"`, "generic:1: "},
		{`"texthash:canonical"`, `"nis:x"`, "is no kind of table"},
		{`"regexp:generic"`, `"regexp:canonical"`, "canonical:1: "},
		{`"permit_mynetworks", `, `"permit_everybody", `, "and no network"},
		{`["canonical", "generic"]`, `["virtual"]`, "propagate_unmatched_extensions holds"},
		{`append_dot_mydomain            = true`, `canonical_classes = ["header_senders"]`, "header_sender"},
		{`append_dot_mydomain            = true`, `sender_canonical_classes = ["envelope_recipient"]`, "sender_canonical_classes holds"},
		{`"!lab.example.com"`, `"!!lab"`, "is no domain"},
		{`"archive@example.com"`, `"archive"`, "always_bcc"},
		{`hopcount_limit = 30`, `hopcount_limit = 0`, "hopcount_limit must be"},
		{`"10d"`, `"1h"`, "from one day"},
		{`= 6`, `= 2`, "hash"},
		{`separator    = "+"`, `separator    = "#"`, "separator"},
		{`$DIR/old.key`, `$DIR/canonical.key`, "secret_files"},
		{`$DIR/old.key`, `$DIR/short.key`, "fewer than"},
		{`domain       = "srs.example.com"`, ``, "domain"},
	} {
		text := strings.Replace(rewriting, row.old, row.text, 1)
		if text == rewriting {
			t.Fatalf("%q does not stand there", row.old)
		}
		files := rewritingFiles(text)
		files["short.key"] = "tooshort\n"
		_, err := Load(write(t, files))
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "postern.hcl") {
			t.Errorf("%s: %v; want %q", row.text, err, row.want)
		}
		if row.text == "$DIR/canonical.key" && !strings.Contains(err.Error(), "/canonical.key\"]") {
			t.Errorf("the names of files are not shown: %v", err)
		}
		if err != nil && (strings.Contains(err.Error(), "tooshort") || strings.Contains(err.Error(), "the new key")) {
			t.Errorf("%s: a key is shown: %v", row.text, err)
		}
	}
}
