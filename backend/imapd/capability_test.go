package imapd

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Whatever is offered is in docs/rfc.md, and what that says is offered is.
func TestCapabilitiesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/rfc.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile(`(?s)Capabilities after login:\s(.*?)\.\n`).FindSubmatch(text)
	if listed == nil {
		t.Fatal("docs/rfc.md does not list the capabilities after login")
	}
	documented := make(map[string]bool)
	for _, name := range strings.Fields(string(listed[1])) {
		documented[name] = true
	}
	for i := range capabilityTable {
		c := &capabilityTable[i]
		name := strings.TrimSuffix(c.name, "=")
		if c.states&authenticated == 0 {
			continue
		}
		if !documented[name] {
			t.Errorf("%s is offered, and not in docs/rfc.md", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/rfc.md says that %s is offered", name)
	}
}
