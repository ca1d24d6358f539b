package directory

import (
	"strings"

	"github.com/postern-mail/postern/mail"
)

// What becomes of mail for a host that Config.Hosts does not have.
const (
	unknownDomain  = "domain"
	unknownConnect = "connect"
	unknownDefer   = "defer"
)

// route returns where the entry of an account says that its mail goes; the
// zero Route leaves that to the domain.
func (d *Directory) route(a mail.Account) mail.Route {
	if a.Transport != "" {
		transport, nextHop, _ := strings.Cut(a.Transport, ":")
		return mail.Route{Transport: transport, NextHop: nextHop}
	}
	if a.Host == "" {
		return mail.Route{}
	}
	if target, known := d.cfg.Hosts[strings.ToLower(a.Host)]; known {
		return mail.Route{Transport: target}
	}
	switch d.cfg.UnknownHost {
	case unknownConnect:
		return mail.Route{NextHop: a.Host}
	case unknownDefer:
		return mail.Route{Transport: mail.UnknownHost + a.Host}
	default:
		return mail.Route{}
	}
}

// home returns which node of a pair has the account's UIDs to give out, where
// anybody asks.
func (d *Directory) home(a mail.Account) mail.Home {
	if d.cfg.Homes == nil {
		return ""
	}
	if pinned, ok := d.cfg.Homes[strings.ToLower(a.Host)]; ok && a.Host != "" {
		return pinned
	}
	return mail.HomeOf(a.HomeClass())
}
