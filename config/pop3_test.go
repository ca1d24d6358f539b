package config

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/pop3d"
)

func loadPOP3(t *testing.T, text string) (*File, error) {
	t.Helper()
	with := strings.Replace(sound, "backend {\n", "backend {\n"+text+"\n", 1)
	return Load(write(t, map[string]string{"postern.hcl": with, "people.ldif": "", "senders": ""}))
}

// TestPOP3: what stands there is what the server is told, and the defaults hold
// without a block.
func TestPOP3(t *testing.T) {
	t.Parallel()
	const listener = `listener "pop3" {
  bind                    = [":110"]
  allow_plaintext_auth    = true
  max_sessions_per_client = 0
}
`
	f, err := loadPOP3(t, listener)
	if err != nil {
		t.Fatal(err)
	}
	cfg := f.Backend.Listeners[0].POP3(f)
	if cfg.InUseWait != 10*time.Second || cfg.IdleTimeout != 10*time.Minute || cfg.LoginDelay != 0 || cfg.MarkSeen || cfg.Quirks != (pop3d.Quirks{}) ||
		cfg.Hostname != "mail.example.com" || cfg.Listener != "pop3" || cfg.ImplicitTLS || !cfg.AllowInsecureAuth || cfg.MaxSessionsPerClient != -1 || cfg.MaxSessionsPerAccount != 100 {
		t.Errorf("defaults: %+v", cfg)
	}
	f, err = loadPOP3(t, listener+`pop3 {
  uidl_format  = "%08Xu%08Xv"
  in_use_wait  = "0s"
  login_delay  = "1m"
  idle_timeout = "11m"
  mark_seen    = true
  quirks       = ["oe-ns-eoh", "outlook-no-nuls"]
}`)
	if err != nil {
		t.Fatal(err)
	}
	cfg = f.Backend.Listeners[0].POP3(f)
	if cfg.InUseWait != 0 || cfg.IdleTimeout != 11*time.Minute || cfg.LoginDelay != time.Minute || !cfg.MarkSeen || cfg.Quirks != (pop3d.Quirks{NoNULs: true, EndOfHeader: true}) {
		t.Errorf("as written: %+v", cfg)
	}
}

// TestPOP3Mistakes are told with their place.
func TestPOP3Mistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`pop3 { uidl_format = "%f" }`:                                              "there are no files that messages could be named by",
		`pop3 { uidl_format = "x" }`:                                               "needs %g or %u",
		`pop3 { in_use_wait = "-1s" }`:                                             "must be a time such as",
		`pop3 { in_use_wait = "5m" }`:                                              "clients give up within a minute",
		`pop3 { quirks = ["outlook-nuls"] }`:                                       `There is no quirk "outlook-nuls"`,
		`pop3 { enable_last = true }`:                                              `no setting "enable_last"`,
		`listener "pop2" { bind = [":109"] }`:                                      "lmtp, imap, imaps, pop3 or pop3s",
		`listener "pop3" { bind = [":110"] }`:                                      "under TLS only",
		"listener \"pop3s\" { \nbind = [\":995\"]\nallow_plaintext_auth = true\n}": "under TLS only",
	} {
		if _, err := loadPOP3(t, text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), " line ") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
