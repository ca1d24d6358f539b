package ldap

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

var errHidden = errors.New("no right")

// vault answers as the service account of a directory that has alice alone.
type vault struct {
	err    error
	values []string
	asked  []string
}

func (v *vault) Passwords(_ context.Context, dn, attribute string) ([]string, error) {
	v.asked = append(v.asked, dn+" "+attribute)
	switch {
	case v.err != nil:
		return nil, v.err
	case dn != aliceDN:
		return nil, status.New(status.NoSuchUser, nil)
	}
	return v.values, nil
}

func (v *vault) Compare(ctx context.Context, dn, attribute, password string) error {
	values, err := v.Passwords(ctx, dn, attribute)
	if err == nil && !slices.Contains(values, password) {
		err = status.New(status.AuthFailed, errors.New("compareFalse"))
	}
	return err
}

// TestServiceAnswers holds both methods that ask as the service account to the
// same answers.
func TestServiceAnswers(t *testing.T) {
	t.Parallel()
	const local = "uid={local},ou=people,dc=example,dc=com"
	hasher, err := authn.NewHasher(authn.HashConfig{})
	if err != nil {
		t.Fatal(err)
	}
	const hash = "{SSHA}1G904nLkTkGWjKNnQuB/hpWXC/hzYWx0c2FsdA=="
	down, gone := status.New(status.DirectoryDown, nil), status.New(status.NoSuchUser, nil)
	const notMine = status.Reason(255)
	for _, tt := range []struct {
		name, template, login, password string
		disabled                        bool
		find, read                      error
		want                            status.Reason
		asked                           int
	}{
		{name: "right", login: "alice", password: "secret", want: status.OK, asked: 1},
		{name: "right, by address", login: "alice@example.com", password: "secret", want: status.OK, asked: 1},
		{name: "wrong", login: "alice", password: "wrong", want: status.AuthFailed, asked: 1},
		{name: "unknown", login: "bob", password: "secret", want: notMine},
		{name: "disabled, right", login: "alice", password: "secret", disabled: true, want: status.AuthFailed, asked: 1},
		{name: "search down", login: "alice", password: "secret", find: down, want: status.DirectoryDown},
		{name: "ambiguous", login: "alice", password: "secret", find: status.New(status.AddressAmbiguous, nil), want: status.AddressAmbiguous},
		{name: "down", login: "alice", password: "wrong", read: down, want: status.DirectoryDown, asked: 1},
		{name: "no right", login: "alice", password: "wrong", read: errHidden, want: status.Unknown, asked: 1},
		{name: "found but hidden", login: "alice", password: "wrong", read: gone, want: status.DirectoryDown, asked: 1},
		{name: "template, right", template: local, login: "alice@example.com", password: "secret", want: status.OK, asked: 1},
		{name: "template, wrong", template: local, login: "alice", password: "wrong", want: status.AuthFailed, asked: 1},
		{name: "template, unknown", template: local, login: "bob", password: "secret", want: notMine, asked: 1},
		{name: "template, other domain", template: local, login: "alice@example.org", password: "secret", want: notMine},
		{name: "template, no right", template: local, login: "alice", password: "secret", read: errHidden, want: status.Unknown, asked: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{DNTemplate: tt.template, Domains: []mail.Domain{"example.com"}}
			people := &tree{findErr: tt.find, disabled: tt.disabled}
			plain := &vault{err: tt.read, values: []string{"other", "secret"}}
			comparer, err := NewComparer(cfg, people, plain, "mailPassword")
			if err != nil {
				t.Fatal(err)
			}
			hashed := &vault{err: tt.read, values: []string{hash}}
			hashes, err := NewHashes(cfg, people, hashed, "")
			if err != nil {
				t.Fatal(err)
			}
			stored, err := file.NewStored("ldap", hashes, hasher, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			for _, by := range []struct {
				authn.Verifier
				vault *vault
				want  string
			}{{comparer, plain, aliceDN + " mailPassword"}, {stored, hashed, aliceDN + " userPassword"}} {
				before := hasher.Computed()
				id, err := by.Verify(t.Context(), authn.Attempt{Login: tt.login, Password: tt.password})
				got := status.Of(err)
				if errors.Is(err, authn.ErrUnknownLogin) {
					got = notMine
				}
				if got != tt.want || len(by.vault.asked) != tt.asked {
					t.Errorf("%T: %v after asking %q; want %v, %d questions", by.Verifier, err, by.vault.asked, tt.want, tt.asked)
				}
				if tt.want == status.OK && (id.Authentication != "alice" || by.vault.asked[0] != by.want) {
					t.Errorf("%T: %+v after asking %q", by.Verifier, id, by.vault.asked)
				}
				if tt.disabled && !errors.Is(err, authn.ErrRefused) {
					t.Errorf("%T: %v does not say that the account is refused", by.Verifier, err)
				}
				if by.Verifier == stored && tt.want == notMine && hasher.Computed() == before {
					t.Errorf("an unknown login costs no hash")
				}
			}
		})
	}
}
