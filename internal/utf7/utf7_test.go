package utf7_test

import (
	"testing"

	"github.com/postern-mail/postern/internal/utf7"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]string{
		"INBOX": "INBOX", "A&B": "A&-B", "Entwürfe": "Entw&APw-rfe", "台北": "&U,BTFw-", "😀": "&2D3eAA-", "": "",
	} {
		if got := utf7.Encode(name); got != wire {
			t.Errorf("Encode(%q) = %q, want %q", name, got, wire)
		}
		if got, err := utf7.Decode(wire); err != nil || got != name {
			t.Errorf("Decode(%q) = %q, %v, want %q", wire, got, err, name)
		}
	}
	for _, bad := range []string{"&", "&abc", "&AA-", "&2D0-", "&!!-"} {
		if got, err := utf7.Decode(bad); err == nil {
			t.Errorf("Decode(%q) = %q, want an error", bad, got)
		}
	}
}
