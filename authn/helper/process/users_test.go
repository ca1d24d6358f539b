package process

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/nss"
	"github.com/postern-mail/postern/internal/testenv"
)

func TestParseSources(t *testing.T) {
	t.Parallel()
	files := []source{{name: "files"}}
	for _, tt := range []struct {
		text string
		want []source
	}{
		{"", files},
		{"passwd:\n", files},
		{"# passwd: ldap\ngroup: nis\n", files},
		{"passwd: files sss # SSSD\n", []source{{name: "files"}, {name: "sss"}}},
		{"group: nis\npasswd:\tfiles systemd\npasswd: ldap\n", []source{{name: "files"}, {name: "systemd"}}},
		{"passwd: sss [NOTFOUND=return] files\n", []source{{name: "sss", last: true}, {name: "files"}}},
		{"passwd: sss[NOTFOUND=return SUCCESS=merge] files\n", []source{{name: "sss", last: true}, {name: "files"}}},
		{"passwd: sss [ !UNAVAIL=return ] files\n", []source{{name: "sss"}, {name: "files"}}},
		{"passwd: [NOTFOUND=return] files\n", files},
	} {
		if got := parseSources(tt.text, "passwd"); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, want %+v", tt.text, got, tt.want)
		}
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add("passwd: sss [NOTFOUND=return] files\n")
	f.Add("passwd:[[[]]] ] [")
	f.Fuzz(func(t *testing.T, text string) {
		if list := parseSources(text, "passwd"); len(list) == 0 || len(list) > maxSources {
			t.Errorf("%q: %d sources", text, len(list))
		}
	})
}

// TestUsers asks for users of this machine. A source that is not there stands
// for one that does not answer.
func TestUsers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		sources []string
		kind    nss.Kind
		ask     string
		want    string
	}{
		{"root", []string{"files"}, nss.User, "root", "root 0 0 /root"},
		{"root, by the machine's own sources", nil, nss.User, "root", "root 0 0 /root"},
		{"nobody of that name", []string{"files"}, nss.User, "no-such-user-here", "absent"},
		{"name that cannot be", []string{"files"}, nss.User, "a:b", "absent"},
		{"name with a NUL", []string{"files"}, nss.User, "root\x00x", "absent"},
		{"group", []string{"files"}, nss.Group, "root", "root 0 0 "},
		{"no such group", []string{"files"}, nss.Group, "no-such-group-here", "absent"},
		{"source that does not answer", []string{"posternabsent"}, nss.User, "root", "unknown"},
		{"one that does not answer before one that knows", []string{"posternabsent", "files"}, nss.User, "root", "root 0 0 /root"},
		{"one that does not answer before one that does not know", []string{"posternabsent", "files"}, nss.User, "no-such-user-here", "unknown"},
		{"one that does not answer after one that does not know", []string{"files", "posternabsent"}, nss.User, "no-such-user-here", "unknown"},
		{"group of a source that does not answer", []string{"posternabsent"}, nss.Group, "root", "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path, _ := serve(t, Config{Users: true, UserSources: tt.sources, Workers: 2})
			if got := askUser(t, path, tt.kind, tt.ask); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	t.Run("helper that serves none", func(t *testing.T) {
		t.Parallel()
		path, _ := serve(t, Config{})
		if got := askUser(t, path, nss.User, "root"); got != "unknown" {
			t.Errorf("%s, want unknown", got)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		if got := askUser(t, filepath.Join(testenv.TempDir(t), "s"), nss.User, "root"); got != "unknown" {
			t.Errorf("%s, want unknown", got)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		t.Parallel()
		path, _ := serve(t, Config{Users: true})
		for _, message := range []string{"N", "N\x01", "N\x02uroot", "N\x01xroot", "N\x01u", "N\x01ua:b"} {
			conn, err := net.Dial("unixpacket", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(message)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, nss.MaxMessageOctets)
			n, err := conn.Read(buf)
			var answer nss.Answer
			if err != nil || answer.UnmarshalBinary(buf[:n]) != nil || answer.Outcome != nss.Unknown {
				t.Errorf("%q: %+v, %v", message, answer, err)
			}
		}
	})
}

func askUser(t *testing.T, path string, kind nss.Kind, name string) string {
	t.Helper()
	client, err := nss.New(nss.Config{Socket: path}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.Ask(context.Background(), kind, name)
	switch {
	case err != nil:
		return "unknown"
	case a.Outcome == nss.Absent:
		return "absent"
	}
	return fmt.Sprintf("%s %d %d %s", a.Name, a.UID, a.GID, a.Home)
}
