package config

import (
	"strings"

	authnss "github.com/postern-mail/postern/authn/nss"
	"github.com/postern-mail/postern/directory/nss"
	"github.com/postern-mail/postern/mail"
)

// shape is what a directory's entries look like.
func (d *Directory) shape() string {
	if d.Kind == DirectorySQL {
		return DirectorySQL
	}
	if d.Kind == DirectoryNSS {
		return "nss"
	}
	return d.Preset
}

// Users returns which users of the machine have mail, with addresses in
// domains.
func (d *Directory) Users(domains []mail.Domain) nss.Config {
	if len(d.Domains) > 0 {
		domains = d.Domains
	}
	return nss.Config{
		Domains: domains, FirstUID: uint32(d.FirstUID), LastUID: uint32(d.LastUID), FirstGID: uint32(d.FirstGID), LastGID: uint32(d.LastGID),
		Groups: d.SystemGroups, Home: d.HomeTemplate,
	}
}

// UserHelper returns who is asked for users of the machine.
func (d *Directory) UserHelper() authnss.Config {
	return authnss.Config{Name: d.Name, Socket: d.Socket, Sources: d.Sources, Timeout: d.Timeout}
}

// systemUsers checks a directory of kind nss.
func (c checker) systemUsers(d *Directory) {
	c.forbid(&d.block, "nss", "file", "uris", "bind_dn", "bind_password_file", "ca_file", "server_name", "base", "preset")
	for name, number := range map[string]int{
		"first_valid_uid": d.FirstUID, "last_valid_uid": d.LastUID, "first_valid_gid": d.FirstGID, "last_valid_gid": d.LastGID,
	} {
		if number < 0 || int64(number) > 1<<32-2 || number == 0 && strings.HasPrefix(name, "first") {
			c.errorf(d.rangeOf(name), "Wrong value", "%s is %d; users and groups with mail have numbers from 1 to 4294967294.", name, number)
		}
	}
	if d.LastUID != 0 && d.LastUID < d.FirstUID {
		c.errorf(d.rangeOf("last_valid_uid"), "Contradiction", "last_valid_uid (%d) is lower than first_valid_uid (%d).", d.LastUID, d.FirstUID)
	}
	if d.LastGID != 0 && d.LastGID < d.FirstGID {
		c.errorf(d.rangeOf("last_valid_gid"), "Contradiction", "last_valid_gid (%d) is lower than first_valid_gid (%d).", d.LastGID, d.FirstGID)
	}
	if err := nss.CheckHome(d.HomeTemplate); err != nil {
		c.errorf(d.rangeOf("home_template"), "Wrong value", "%v.", err)
	}
	if d.Socket != "" && len(d.Sources) > 0 {
		c.errorf(d.rangeOf("sources"), "Contradiction", "The helper that listens on the socket has its own sources (auth-helper --users-from).")
	}
}
