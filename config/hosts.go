package config

import (
	"cmp"
	"maps"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
)

// DirectoryRoom returns what the entries of d mean, with the places that the
// configuration has for mail to the hosts they name.
func (f *File) DirectoryRoom(d *Directory, domains []mail.Domain) directory.Config {
	room := d.Room(domains)
	room.Hosts, room.UnknownHost = nil, "domain"
	room.Homes = f.homes(d)
	if d.placesByHost() {
		room.Hosts, room.UnknownHost = f.mailHosts(d), cmp.Or(d.UnknownHost, "defer")
	}
	return room
}

// placesByHost reports whether the hosts of accounts are looked at.
func (d *Directory) placesByHost() bool { return len(d.Hosts) > 0 || d.UnknownHost != "" }

// waitingHosts says where mail goes that waits for a host to become known. Of
// directories that differ the first counts.
func (f *File) waitingHosts() (hosts map[string]string, unknown string) {
	hosts, unknown = make(map[string]string), "domain"
	for i := len(f.Directories) - 1; i >= 0; i-- {
		if d := f.Directories[i]; d.placesByHost() {
			maps.Copy(hosts, f.mailHosts(d))
			unknown = cmp.Or(d.UnknownHost, "defer")
		}
	}
	return hosts, unknown
}

// mailHosts maps the names a host attribute may have to targets: what the host
// blocks say, then LMTP targets by their name and by the hosts of their
// addresses, where only one has it, and our own hostname, which leaves mail to
// its domain.
func (f *File) mailHosts(d *Directory) map[string]string {
	known, shared := make(map[string]string), make(map[string]bool)
	if f.Gateway != nil {
		for _, t := range f.Gateway.Targets {
			for _, name := range t.hostNames() {
				other, taken := known[name]
				shared[name] = shared[name] || taken && other != t.Name
				known[name] = t.Name
			}
		}
		maps.DeleteFunc(known, func(name, _ string) bool { return shared[name] })
		for _, t := range f.Gateway.Targets {
			if t.Protocol == string(delivery.LMTP) {
				known[strings.ToLower(t.Name)] = t.Name
			}
		}
	}
	known[strings.ToLower(f.Hostname)] = ""
	maps.Copy(known, d.hosts())
	return known
}

// hostNames returns the hosts in the addresses of an LMTP target.
func (t *Target) hostNames() []string {
	if t.Protocol != string(delivery.LMTP) {
		return nil
	}
	var names []string
	for _, a := range t.Address {
		if hop, err := delivery.ParseNextHop(a); err == nil && hop.Host != "" {
			names = append(names, strings.ToLower(hop.Host))
		}
	}
	return names
}

// localTarget reports whether the directories may name LMTP next hops
// themselves while no target has settings for them.
func (f *File) localTarget() bool {
	if f.Gateway == nil {
		return false
	}
	for _, t := range f.Gateway.Targets {
		if t.Name == delivery.Local {
			return false
		}
	}
	for _, d := range f.Directories {
		if d.TransportAttr != "" && d.TransportAttr != "-" {
			return true
		}
	}
	return false
}
