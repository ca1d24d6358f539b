package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/authn/apppass"
	"github.com/postern-mail/postern/authn/master"
	"github.com/postern-mail/postern/authn/recall"
)

// Kinds of verifiers that stand beside those of people's own passwords.
const (
	AuthnAppPasswords = "app-passwords"
	AuthnMaster       = "master"
	AuthnRecovery     = "recovery"
)

// Values of Authn.Cache.
const (
	CacheOff        = "off"
	CacheOnlineOnly = "online-only"
	CacheOfflineOK  = "offline-ok"
)

// VerifierCache says how long verifiers need not be asked again.
type VerifierCache struct {
	block
	Fresh       time.Duration `conf:"fresh_for" default:"1h" doc:"How long a password that was right is so without asking, unless credential_attributes tell that it changed."`
	Unversioned time.Duration `conf:"unversioned_for" default:"5m" doc:"The same where the directory tells no time of a change: an old password goes on working that long. At most fresh_for."`
	Offline     time.Duration `conf:"offline_for" default:"24h" doc:"offline-ok: how long after its last yes a verifier that cannot answer is done without."`
	Entries     int           `conf:"max_entries" default:"100000" doc:"Accounts that are remembered, in memory and again on disk."`
}

func (c checker) verifierCache(v *VerifierCache) {
	for name, d := range map[string]time.Duration{"fresh_for": v.Fresh, "unversioned_for": v.Unversioned, "offline_for": v.Offline} {
		if d < time.Second {
			c.errorf(v.rangeOf(name), "Too short", "%s is at least 1s; verifier_cache = \"off\" in an authn block always asks.", name)
		}
	}
	if v.Offline > 7*24*time.Hour {
		c.errorf(v.rangeOf("offline_for"), "Too long", "offline_for is at most 7d: who left meanwhile still logs in.")
	}
	if v.Entries < 100 {
		c.errorf(v.rangeOf("max_entries"), "Wrong value", "max_entries is at least 100.")
	}
}

// Room returns how long verifiers need not be asked again.
func (v *VerifierCache) Room() recall.Config {
	return recall.Config{FreshFor: v.Fresh, UnversionedFor: v.Unversioned, OfflineFor: v.Offline, Entries: v.Entries}
}

// beside checks a verifier that stands beside others.
func (c checker) beside(a *Authn) {
	switch a.Kind {
	case AuthnMaster, AuthnRecovery:
		if a.File == "" {
			c.errorf(a.at, "Missing setting", `This verifier needs "file", the path of a password file.`)
		}
		c.readable(&a.block, "file", a.File)
		if a.Kind == AuthnMaster && a.Directory == "" {
			c.errorf(a.at, "Missing setting", `Master users act for people of a directory: "directory" is missing, such as directory.NAME.`)
		}
		if len(a.Separator) > 1 || strings.ContainsAny(a.Separator, "@. \t") {
			c.errorf(a.rangeOf("separator"), "Wrong value", "%q is no single character that names do not have, such as \"*\".", a.Separator)
		}
	case AuthnAppPasswords:
		for _, name := range a.OnlyFor {
			if !slices.Contains(apppass.Protocols(), name) {
				c.errorf(a.rangeOf("only_for"), "Wrong value", "%q is no protocol; there are %s.", name, strings.Join(apppass.Protocols(), ", "))
			}
		}
	}
}

// remembered refuses a cache before what is as near as the cache.
func (c checker) remembered(a *Authn) {
	if a.Cache == CacheOff || a.Kind == "ldap" || a.Kind == "pam" {
		return
	}
	if a.Passwordless() || a.Kind == "gssapi" {
		c.errorf(a.rangeOf("verifier_cache"), "Contradiction", "A verifier of kind %s takes no passwords: there is nothing to remember.", a.Kind)
		return
	}
	c.errorf(a.rangeOf("verifier_cache"), "Contradiction", "Passwords of kind %s are here: there is nothing to remember.", a.Kind)
}

// hasAccounts reports whether some verifier says which logins there are.
func (f *File) hasAccounts() bool {
	return slices.ContainsFunc(f.Authn, func(a *Authn) bool {
		return a.Directory != "" && a.Kind != AuthnMaster && a.Kind != AuthnAppPasswords
	})
}

// AppPasswordsOnly names the protocols that other passwords are no good for.
func (f *File) AppPasswordsOnly() []string {
	var all []string
	for _, a := range f.Authn {
		if a.Kind == AuthnAppPasswords {
			all = append(all, a.OnlyFor...)
		}
	}
	return all
}

// MasterSeparator stands between an account and a master in a login; "" without
// masters.
func (f *File) MasterSeparator() string {
	for _, a := range f.Authn {
		if a.Kind == AuthnMaster {
			return a.Separator
		}
	}
	return ""
}

// Master returns the configuration of a verifier of kind master.
func (a *Authn) Master() master.Config {
	return master.Config{Separator: a.Separator, Networks: a.Networks}
}

// RecalledAs tells a verifier apart from others whose passwords differ, and
// from what it was before its settings were changed: another server said
// nothing yet.
func (f *File) RecalledAs(a *Authn) string {
	if dir := f.Directory(a.Directory); a.Kind == "ldap" && dir != nil {
		by := ""
		if a.Method != MethodBind { // and the same as ever where it is
			by = fmt.Sprintf(" %q %q", a.Method, a.PasswordAttr)
		}
		return fmt.Sprintf("ldap %q %q %q %q", dir.URIs, dir.ServerName, dir.BaseDN(), a.DNTemplate) + by
	}
	return fmt.Sprintf("%s %q %q %q %q", a.Kind, a.Service, a.Services, a.ServiceDir, a.Socket)
}
