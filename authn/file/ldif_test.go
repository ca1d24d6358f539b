package file_test

import (
	"bytes"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/directory/directorytest"
	dirldif "github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/testdata/ldif"
)

type silent struct{}

func (silent) Record(mail.Event) {}

// TestLDIFDirectories logs people of the example company in as the demo does.
func TestLDIFDirectories(t *testing.T) {
	t.Parallel()
	for _, tree := range ldif.Trees() {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			entries, err := dirldif.Parse(tree.Preset, bytes.NewReader(tree.LDIF))
			if err != nil {
				t.Fatal(err)
			}
			source := dirldif.NewSource(dirldif.NewTree(entries))
			directory := directorytest.Open(t, directorytest.Config(tree), source)
			hasher, err := authn.NewHasher(authn.HashConfig{})
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := file.NewStored("ldif", dirldif.NewPasswords(directory, source), hasher, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			chain, err := authn.New(authn.Config{FailureBeat: -1}, []authn.Link{{Verifier: verifier}}, silent{}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				login, password string
				want            status.Reason
			}{
				{"alice", ldif.Password("alice"), status.OK},
				{"Alice@Example.COM", ldif.Password("alice"), status.OK},
				{"carol", ldif.Password("carol"), status.OK},
				{"alice", "wrong", status.AuthFailed},
				{"dave", ldif.Password("dave"), status.AuthFailed},
				{"nobody", ldif.Password("alice"), status.AuthFailed},
				{"*", ldif.Password("alice"), status.AuthFailed},
			} {
				id, err := chain.Verify(t.Context(), authn.Attempt{Login: tt.login, Password: tt.password})
				if status.Of(err) != tt.want {
					t.Errorf("Verify(%q, %q) = %+v, %v; want %v", tt.login, tt.password, id, err, tt.want)
				}
				if err == nil && id.Authentication != "alice" && id.Authentication != "carol" {
					t.Errorf("Verify(%q) identified %q", tt.login, id.Authentication)
				}
			}
		})
	}
}
