package nearest

import "testing"

func TestWord(t *testing.T) {
	t.Parallel()
	words := []string{"permit_mynetworks", "permit_authenticated", "reject", "uris"}
	for mistyped, want := range map[string]string{
		"permit_mynetwork":    "permit_mynetworks",
		"permit_autenticated": "permit_authenticated",
		"rejcet":              "reject",
		"urls":                "uris",
		"":                    "",
		"timeout":             "",
	} {
		if got := Word(mistyped, words); got != want {
			t.Errorf("Word(%q) = %q, want %q", mistyped, got, want)
		}
	}
}
