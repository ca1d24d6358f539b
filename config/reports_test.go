package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// loadReports loads the sound configuration with a reports block, and files in
// the folder texts beside it.
func loadReports(t *testing.T, reports string, texts map[string]string) (*File, error) {
	t.Helper()
	files := map[string]string{
		"postern.hcl": strings.Replace(sound, "gateway {\n", "gateway {\n"+reports, 1), "people.ldif": "", "senders": "",
	}
	for name, text := range texts {
		files["texts/"+name] = text
	}
	return Load(write(t, files))
}

func TestReportsDefaults(t *testing.T) {
	t.Parallel()
	f, err := loadReports(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := f.Reports(func(mail.Domain) bool { return true })
	if c.MaxReturned != 50000 || c.Threaded || c.IgnoreSender || c.Local == nil || !slices.Equal(c.Languages, []string{"en"}) {
		t.Errorf("%+v", c)
	}
	for class, want := range map[mail.NoticeClass]bool{
		mail.NoticeBounce: false, mail.NoticeDelay: false, mail.NoticeDoubleBounce: false, mail.NoticeResource: true, mail.NoticeSoftware: true,
	} {
		if to, wanted := f.NoticeTo(class); wanted != want || to.String() != "postmaster@example.com" {
			t.Errorf("%s: %s, %v", class, to, wanted)
		}
	}
}

func TestReportsConfigured(t *testing.T) {
	t.Parallel()
	f, err := loadReports(t, `
reports {
  bounce_size_limit = "1 MiB"
  enable_threaded_bounces = true
  languages = ["nl", "en"]
  sender_language = false
  reveal_aliases = "everybody"
  template_dir = "$DIR/texts"
  notify_classes = ["2bounce", "bounce"]
  double_bounce_notice_recipient = "bounces@example.com"
  language "de,en" { domains = ["example.de", ".at"] }
}
`, map[string]string{"failure.nl": "From: Post\nSubject: Niet bezorgd\n\n{recipients}\n", ".failure.nl.swp": "\xff", "failure.nl~": "\xff"})
	if err != nil {
		t.Fatal(err)
	}
	c := f.Reports(func(mail.Domain) bool { return true })
	if c.MaxReturned != 1<<20 || !c.Threaded || !c.IgnoreSender || c.Local != nil || len(c.Files) != 1 || !slices.Equal(c.LanguagesOf[".at"], []string{"de", "en"}) {
		t.Errorf("%+v", c)
	}
	if to, wanted := f.NoticeTo(mail.NoticeDoubleBounce); !wanted || to.String() != "bounces@example.com" {
		t.Errorf("%s, %v", to, wanted)
	}
	if _, wanted := f.NoticeTo(mail.NoticeResource); wanted {
		t.Error("resource is on")
	}
}

// TestReportsMistakes: each is told with its place.
func TestReportsMistakes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		reports string
		texts   map[string]string
		want    []string
	}{
		"language":         {"reports { languages = [\"klingon\"] }\n", nil, []string{"postern.hcl line 10", `no texts in the language "klingon"`}},
		"class":            {"reports { notify_classes = [\"bounces\"] }\n", nil, []string{"postern.hcl line 10", `no class "bounces". Did you mean "bounce"?`}},
		"class of Postfix": {"reports { notify_classes = [\"policy\"] }\n", nil, []string{"the audit has each such session"}},
		"folder":           {"reports { template_dir = \"$DIR/none\" }\n", nil, []string{"Cannot read folder", "no such file"}},
		"template":         {"reports { template_dir = \"$DIR/texts\" }\n", map[string]string{"failure.de": "From: a\nSubject: b\n\n{recipient}"}, []string{"texts/failure.de:4: {recipient} cannot stand here; did you mean {recipients}?"}},
		"foreign file":     {"reports { template_dir = \"$DIR/texts\" }\n", map[string]string{"README": "hello"}, []string{"README: a text is called KIND.LANGUAGE"}},
		"domain":           {"reports {\n language \"de\" { domains = [\"a b\"] }\n}\n", nil, []string{"postern.hcl line 11", "domains:"}},
		"two languages":    {"reports {\n language \"de\" { domains = [\".x.example\"] }\n language \"en\" { domains = [\".X.example\"] }\n}\n", nil, []string{"has a language in"}},
		"address":          {"reports { delay_notice_recipient = \"nobody\" }\n", nil, []string{"delay_notice_recipient"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := loadReports(t, tt.reports, tt.texts)
			if err == nil {
				t.Fatal("no mistake found")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in\n%v", want, err)
				}
			}
		})
	}
}

// TestReportsShown: what config show prints loads again.
func TestReportsShown(t *testing.T) {
	t.Parallel()
	f, err := loadReports(t, "reports {\n notify_classes = []\n delay_notice_recipient = \"a@example.com\"\n language \"de,en\" { domains = [\"example.de\"] }\n}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, nonDefault := range []bool{false, true} {
		var b strings.Builder
		if err := f.Show(&b, nonDefault); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(filepath.Dir(f.sources[0]), "again.hcl")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(path)
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		if to, _ := again.NoticeTo(mail.NoticeDelay); len(again.Gateway.Reports.NotifyClasses) != 0 || to.String() != "a@example.com" || len(again.Gateway.Reports.ByDomain) != 1 {
			t.Errorf("%+v", again.Gateway.Reports)
		}
	}
}
