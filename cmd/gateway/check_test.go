package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/config"
)

// TestCheckHearsTheMailboxes: what the mail store would refuse at the start is
// told by config check.
func TestCheckHearsTheMailboxes(t *testing.T) {
	t.Parallel()
	for name, mailboxes := range map[string]string{
		"one role twice":      `mailbox "Sent" { special_use = "sent" }` + "\n" + `mailbox "Gone" { special_use = "sent" }`,
		"a name twice":        `mailbox "Sent" {}` + "\n" + `mailbox "Sent" {}`,
		"no name":             `mailbox "a//b" {}`,
		"a role of no folder": `mailbox "All" { special_use = "all" }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, strings.Replace(standard, "backend {\n", "backend {\n"+mailboxes+"\n", 1), nil)
			out, err := command(t.Context(), "config", "check", "-c", s.Config)
			if err == nil {
				t.Errorf("config check has no objection: %s", out)
			}
		})
	}
}

// TestReloadTellsWhatWaits: what a reload does not take over is named.
func TestReloadTellsWhatWaits(t *testing.T) {
	t.Parallel()
	load := func(old, changed string) *config.File {
		t.Helper()
		if !strings.Contains(standard, old) {
			t.Fatalf("the standard site has no %q", old)
		}
		f, err := config.Load(newSite(t, strings.Replace(standard, old, changed, 1), nil).Config)
		must(t, err)
		return f
	}
	const inGateway, inBackend = "gateway {\n", "backend {\n"
	for _, c := range []struct{ old, changed, want string }{
		{`{ file = "{{.Dir}}/audit.log" }`, "{\n  sync_interval = \"5s\"\n  file = \"{{.Dir}}/audit.log\"\n}", "audit.sync_interval"},
		{inGateway, inGateway + "queue { workers = 3 }\n", "gateway.queue"},
		{inGateway, inGateway + "queue { queue_minfree = \"7 MiB\" }\n", "gateway.queue"},
		{inBackend, inBackend + "minfree = \"7 MiB\"\n", "backend.minfree"},
		{inBackend, inBackend + "detail_mailboxes = true\n", "backend.detail_mailboxes"},
		{inBackend, inBackend + "mailbox \"Sent\" { special_use = \"sent\" }\n", "backend.mailbox"},
	} {
		before, after := load(c.old, c.old), load(c.old, c.changed)
		after.DataDir, after.Audit.File, after.Control = before.DataDir, before.Audit.File, before.Control
		for _, what := range needsRestart(before, after) {
			if !strings.Contains(what, "listener") && what != c.want { // each site has ports of its own
				t.Errorf("%s: named %q", c.changed, what)
			}
		}
		if !slices.Contains(needsRestart(before, after), c.want) {
			t.Errorf("%s: %q is not named", c.changed, c.want)
		}
		if len(needsRestart(before, before)) > 0 {
			t.Error("nothing changed, but something is named")
		}
	}
}

// TestReserve: the mailboxes' 0 means no reserve, not the stores' own default,
// and the queue keeps room for one and a half of the largest message.
func TestReserve(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		block, text, role string
		want              int64
	}{
		{"gateway", "", "queue", 100 << 20},
		{"gateway", `queue { queue_minfree = 0 }`, "queue", 75 << 20},
		{"gateway", `queue { queue_minfree = "777 MiB" }`, "queue", 777 << 20},
		{"backend", "", "mail", 100 << 20},
		{"backend", "minfree = 0", "mail", -1},
		{"backend", `minfree = "7 MiB"`, "mail", 7 << 20},
	} {
		begin := c.block + " {\n"
		f, err := config.Load(newSite(t, strings.Replace(standard, begin, begin+c.text+"\n", 1), nil).Config)
		must(t, err)
		if got := reserveOf(f, c.role); got != c.want {
			t.Errorf("%s %q: reserve of %d, want %d", c.block, c.text, got, c.want)
		}
	}
}
