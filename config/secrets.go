package config

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/delivery/tlspolicy"
)

// secretSetting is a line that sets something whose name speaks of a secret to
// a text. Postern has no such settings, but people write what they know from
// elsewhere, and the lines around a mistake are shown.
var secretSetting = regexp.MustCompile(`(?im)^[ \t]*"?([\w.-]*(?:passw|secret|_pw\b|token|credential|passphrase)[\w.-]*)"?[ \t]*[=:][ \t]*(\S[^\n]*)$`)

// withoutSecrets returns files as mistakes may show them: the same octets but
// for secrets, so that places still fit.
func withoutSecrets(files map[string]*hcl.File) map[string]*hcl.File {
	shown := make(map[string]*hcl.File, len(files))
	for name, f := range files {
		masked := *f
		masked.Bytes = maskSecrets(f.Bytes)
		shown[name] = &masked
	}
	return shown
}

func maskSecrets(text []byte) []byte {
	masked := bytes.Clone(text)
	for _, at := range secretSetting.FindAllSubmatchIndex(text, -1) {
		name := bytes.ToLower(text[at[2]:at[3]])
		if bytes.HasSuffix(name, []byte("_file")) || bytes.HasSuffix(name, []byte("_files")) {
			continue
		}
		for i := at[4]; i < at[5]; i++ {
			if masked[i] != '\r' {
				masked[i] = '*'
			}
		}
	}
	return masked
}

// Warnings are what is no mistake, but should be mended: files of secrets that
// everybody on the machine can read, and networks that hold everybody.
func (f *File) Warnings() []string {
	var all []string
	look := func(b *block, name, path string) {
		info, err := os.Stat(path)
		if path == "" || err != nil || info.Mode().Perm()&0o004 == 0 {
			return
		}
		at := b.rangeOf(name)
		all = append(all, fmt.Sprintf("%s:%d: %s %s is readable by everybody: chmod o-r it", at.Filename, at.Start.Line, name, path))
	}
	certificate := func(t *TLS) {
		if t == nil {
			return
		}
		for _, pair := range t.Pairs() {
			look(&pair.block, "key_file", pair.KeyFile)
		}
	}
	certificate(f.TLS)
	for _, d := range f.Directories {
		look(&d.block, "bind_password_file", d.BindPasswordFile)
		look(&d.block, "key_file", d.KeyFile)
		for _, t := range d.Tables {
			look(&t.block, "bind_password_file", t.BindPasswordFile)
			look(&t.block, "key_file", t.KeyFile)
			if t.postfix != nil && t.postfix.connection.BindPasswordParameter != "" {
				look(&t.block, "postfix_file", t.PostfixFile)
			}
			all = append(all, t.warnings()...)
		}
	}
	for _, a := range f.Authn {
		look(&a.block, "file", a.File)
	}
	if f.Backend != nil && f.Backend.Proxy != nil {
		look(&f.Backend.Proxy.block, "password_file", f.Backend.Proxy.PasswordFile)
	}
	if f.Proxy != nil {
		for _, cell := range f.Proxy.Cells {
			look(&cell.block, "password_file", cell.PasswordFile)
			look(&cell.block, "key_file", cell.KeyFile)
		}
	}
	for _, m := range f.Mirrors {
		for _, side := range []*MirrorSide{m.Left, m.Right} {
			look(&side.block, "password_file", side.PasswordFile)
			look(&side.block, "logins_file", side.LoginsFile)
		}
	}
	if f.Gateway != nil {
		for _, n := range f.Gateway.MyNetworks {
			if n.Bits() == 0 {
				at := f.Gateway.rangeOf("mynetworks")
				all = append(all, fmt.Sprintf("%s:%d: mynetworks holds %s: the whole world may relay mail", at.Filename, at.Start.Line, n))
			}
		}
		for _, l := range f.Gateway.Listeners {
			certificate(l.TLS)
		}
		if srs := f.Gateway.SRS; srs != nil {
			for _, file := range srs.SecretFiles {
				look(&srs.block, "secret_files", file)
			}
		}
		all = append(all, f.Gateway.signedTooEarly()...)
		for _, t := range f.Gateway.Targets {
			look(&t.block, "password_file", t.PasswordFile)
			if setting := t.trustingLogin(); setting != "" && len(f.Gateway.TLSPolicy) == 0 {
				at := t.rangeOf(setting)
				all = append(all, fmt.Sprintf("%s:%d: %s: any server on the way can pass for this one and get the password: tls = \"verify\" has it show a certificate", at.Filename, at.Start.Line, setting))
			}
		}
	}
	if f.Backend != nil {
		if r := f.Backend.Replica; r != nil {
			look(&r.block, "secret_file", r.SecretFile)
			look(&r.block, "key_file", r.KeyFile)
		}
		for _, l := range f.Backend.Listeners {
			certificate(l.TLS)
		}
	}
	return all
}

// trustingLogin returns the setting by which a target tells its password to
// servers on other machines that show no certificate of theirs; "" where none does.
func (t *Target) trustingLogin() string {
	switch t.TLS {
	case "", string(tlspolicy.May), string(tlspolicy.Encrypt):
	default:
		return ""
	}
	away := func(address string) bool {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		return !strings.HasPrefix(address, "unix:") && host != "localhost" && (err != nil || !ip.IsLoopback())
	}
	switch {
	case !slices.ContainsFunc(t.Address, away):
		return ""
	case t.User != "":
		return "user"
	case t.LoginsFile != "":
		return "logins_file"
	default:
		return ""
	}
}
