package config

import (
	"fmt"
	"hash/crc32"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/backend/replica/link"
	"github.com/postern-mail/postern/mail"
)

// Replica is this server's half of a pair.
type Replica struct {
	block
	Pair       string   `conf:"pair" doc:"Name of the pair, alike on both servers; for who runs several, so that a wrong partner is noticed."`
	Partner    string   `conf:"partner" doc:"Where the other server listens, host:port. One of the two needs it; with both, either can be dialed. The server with node = 0 dials."`
	Listen     []string `conf:"listen" doc:"Addresses host:port to be dialed at by the other server. Only the partner gets further than the handshake."`
	SecretFile string   `conf:"secret_file" doc:"File whose first line is a secret that both servers know and nobody else; postern replica keygen makes one. It lets a server be the partner and do nothing else. Either this or partner_pin."`
	PartnerPin []string `conf:"partner_pin" doc:"Keys that the partner may have, as it prints its own by postern replica pin: sha256: and 64 hexadecimal digits. Two while one is replaced. Either this or secret_file."`
	CertFile   string   `conf:"cert_file" doc:"Certificate to show the partner, PEM; only its key counts. Empty: one that the server makes and keeps in data_dir."`
	KeyFile    string   `conf:"key_file" doc:"The certificate's private key, PEM."`

	Durability  string            `conf:"durability" default:"semi-sync" oneof:"async semi-sync strict shadow" doc:"When mail and changes count as safe, so that 250 or OK is answered. async: they are on this server's disk. semi-sync: on both disks, but on this one while the partner is away; that is counted. strict: on both, else 451 or NO [UNAVAILABLE]. shadow: on this disk for mail of Postern's gateways, which keep it in their queue until the partner has it, too; all else as semi-sync."`
	SyncTimeout time.Duration     `conf:"sync_timeout" default:"2s" doc:"How long semi-sync and strict wait for the partner's disk while the partner is there. After it semi-sync answers all the same, and counts it; strict refuses."`
	Accounts    []*ReplicaAccount `conf:"accounts,block" example:"accounts \"*@bank.example\" { durability = \"strict\" }" doc:"Another durability for some accounts; the first block that fits decides. Label: a mask of account names, in which * stands for any characters and ? for one."`
	Home        string            `conf:"home" default:"hash" oneof:"hash node0 node1" doc:"Where an account's UIDs are given out while both servers are connected: hash spreads the accounts evenly, as gateways do that know both; node0 and node1 name one server, for where all clients use that. Mail and clients are taken on both anyway. Alike on both servers."`

	Heartbeat time.Duration `conf:"heartbeat" default:"1s" doc:"Time between signs of life to the partner."`
	DeadAfter time.Duration `conf:"dead_after" default:"3s" doc:"Silence after which the partner counts as gone; at least twice heartbeat. A partner whose process ends is gone at once."`
	Retention time.Duration `conf:"journal_retention" default:"7d" doc:"How long changes are kept for a partner that is away. One that was away for longer is brought up to date by comparing what there is, which takes longer and loses nothing either."`
}

// ReplicaAccount is the durability of some accounts.
type ReplicaAccount struct {
	block
	Mask string `conf:"mask,label"`

	Durability string `conf:"durability" required:"the mode, such as \"strict\"" oneof:"async semi-sync strict shadow" doc:"As in the replica block."`
}

const (
	minHeartbeat   = 100 * time.Millisecond
	maxSyncTimeout = time.Minute
	minRetention   = time.Hour
)

func (c checker) replica(b *Backend) {
	if b.Node != 0 && b.Node != 1 {
		c.errorf(b.rangeOf("node"), "Wrong value", "node is 0 or 1: the servers of a pair have one of these each.")
	}
	r := b.Replica
	if r == nil {
		return
	}
	if !b.wrote("node") {
		c.errorf(r.at, "Missing setting", `The backend of a pair needs "node": write node = 0 on one server and node = 1 on the other. A server that has mail already is node 0, as it was written without.`)
	}
	c.replicaPlaces(r)
	c.replicaKeys(r)
	for _, a := range r.Accounts {
		if strings.TrimSpace(a.Mask) == "" {
			c.errorf(a.at, "Wrong value", `A mask is empty; "*" stands for all accounts.`)
		}
	}
	c.replicaTimes(r)
}

func (c checker) replicaPlaces(r *Replica) {
	if r.Partner == "" && len(r.Listen) == 0 {
		c.errorf(r.at, "Missing setting", `A pair needs a way from one server to the other: "partner", such as "mail2.example.com:7024", or "listen", such as [":7024"], or both.`)
	}
	for _, bind := range r.Listen {
		c.address(r.rangeOf("listen"), bind, false)
	}
	if r.Partner == "" {
		return
	}
	host, port, err := net.SplitHostPort(r.Partner)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" {
		c.errorf(r.rangeOf("partner"), "Wrong value", "%q is not host:port, such as mail2.example.com:7024.", r.Partner)
	}
	if slices.Contains(r.Listen, r.Partner) {
		c.errorf(r.rangeOf("partner"), "Contradiction", "partner is %s, where this server listens itself; it names the other server.", r.Partner)
	}
}

func (c checker) replicaKeys(r *Replica) {
	switch {
	case r.SecretFile == "" && len(r.PartnerPin) == 0:
		c.errorf(r.at, "Missing setting", `How is the partner known? Set "secret_file" on both servers to copies of one file, which postern replica keygen FILE makes, or "partner_pin" on each to what postern replica pin prints on the other.`)
	case r.SecretFile != "" && len(r.PartnerPin) > 0:
		c.errorf(r.rangeOf("partner_pin"), "Contradiction", "secret_file and partner_pin exclude each other: the partner is known by a secret or by its key.")
	}
	if r.SecretFile != "" {
		if _, err := link.ReadSecret(r.SecretFile); err != nil {
			c.errorf(r.rangeOf("secret_file"), "Cannot be used", "%v.", err)
		}
	}
	for _, text := range r.PartnerPin {
		if _, err := link.ParsePin(text); err != nil {
			c.errorf(r.rangeOf("partner_pin"), "Wrong value", "%v.", err)
		}
	}
	if (r.CertFile == "") != (r.KeyFile == "") {
		c.errorf(r.at, "Contradiction", "cert_file and key_file go together.")
	}
	c.readable(&r.block, "cert_file", r.CertFile)
	c.readable(&r.block, "key_file", r.KeyFile)
}

func (c checker) replicaTimes(r *Replica) {
	bound := func(name string, v, least, most time.Duration) {
		at := r.rangeOf(name)
		if v < least {
			c.errorf(at, "Too short", "%s is at least %s.", name, formatDuration(least))
		}
		if most > 0 && v > most {
			c.errorf(at, "Too long", "%s is at most %s: who delivers waits no longer.", name, formatDuration(most))
		}
	}
	bound("heartbeat", r.Heartbeat, minHeartbeat, 0)
	bound("sync_timeout", r.SyncTimeout, time.Millisecond, maxSyncTimeout)
	bound("journal_retention", r.Retention, minRetention, 0)
	if r.DeadAfter < 2*r.Heartbeat {
		c.errorf(firstOf(r, "dead_after", "heartbeat"), "Contradiction", "dead_after (%s) is at least twice heartbeat (%s): one sign of life may be late.", formatDuration(r.DeadAfter), formatDuration(r.Heartbeat))
	}
}

// firstOf is the place of the first of the settings that was written.
func firstOf(r *Replica, names ...string) hcl.Range {
	for _, name := range names {
		if r.wrote(name) {
			return r.rangeOf(name)
		}
	}
	return r.at
}

// Link returns how the partner is reached and known, without certificate,
// secret and what the mailboxes know of themselves.
func (r *Replica) Link(f *File) link.Config {
	c := link.Config{
		Pair: r.Pair, Node: uint16(f.Backend.Node), Partner: r.Partner, Settings: f.replicaSettings(),
		Heartbeat: r.Heartbeat, DeadAfter: r.DeadAfter,
	}
	for _, text := range r.PartnerPin {
		if pin, err := link.ParsePin(text); err == nil { // checked before
			c.Pins = append(c.Pins, pin)
		}
	}
	return c
}

// Room returns how the node replicates.
func (r *Replica) Room(f *File) replica.Config {
	return replica.Config{
		Mode: durabilities[r.Durability], SemiSyncWait: r.SyncTimeout, StrictWait: r.SyncTimeout, Dir: f.ReplicaFolder(),
	}
}

var durabilities = map[string]mailstore.Durability{
	"async": mailstore.DurabilityAsync, "semi-sync": mailstore.DurabilitySemiSync,
	"strict": mailstore.DurabilityStrict, "shadow": mailstore.DurabilityShadow,
}

// DurabilityOf returns the mode of an account.
func (r *Replica) DurabilityOf(account string) string {
	for _, a := range r.Accounts {
		if mail.Mask(a.Mask).Matches(account) {
			return a.Durability
		}
	}
	return r.Durability
}

// Exception returns the mode of an account that an accounts block names, and
// the default for the others.
func (r *Replica) Exception(account string) mailstore.Durability {
	for _, a := range r.Accounts {
		if mail.Mask(a.Mask).Matches(account) {
			return durabilities[a.Durability]
		}
	}
	return mailstore.DurabilityDefault
}

// replicaSettings is what both servers of a pair should have alike. Names and
// values are shown to operators where they have not.
func (f *File) replicaSettings() []link.Setting {
	r := f.Backend.Replica
	var accounts, mailboxes []string
	for _, a := range r.Accounts {
		accounts = append(accounts, a.Mask+"="+a.Durability)
	}
	for _, m := range f.Backend.Mailboxes {
		mailboxes = append(mailboxes, m.summary())
	}
	settings := []link.Setting{
		{Name: "backend.replica.home", Value: r.Home},
		{Name: "backend.replica.durability", Value: r.Durability},
		{Name: "backend.replica.accounts", Value: strings.Join(accounts, " ")},
		{Name: "backend.mailbox", Value: strings.Join(mailboxes, " ")},
		{Name: "backend.mailbox_limits", Value: f.Backend.Limits.summary()},
		{Name: "backend.sharing", Value: f.Backend.Sharing.summary()},
		{Name: "backend.detail_mailboxes", Value: fmt.Sprint(f.Backend.Detail)},
	}
	if len(f.Backend.Virtual) > 0 {
		var virtual []string
		for _, v := range f.Backend.Virtual {
			virtual = append(virtual, v.summary())
		}
		settings = append(settings, link.Setting{Name: "backend.virtual", Value: strings.Join(virtual, " ")})
	}
	for i := range settings { // a hello has no room for hundreds of masks
		if v := settings[i].Value; len(v) > maxSettingValue {
			settings[i].Value = v[:maxSettingValue] + fmt.Sprintf("... (%d octets, CRC %08x)", len(v), crc32.ChecksumIEEE([]byte(v)))
		}
	}
	return settings
}

const maxSettingValue = 300

// Same reports whether two replica blocks, either of which may be nil, say the
// same.
func (r *Replica) Same(other *Replica) bool {
	return reflect.DeepEqual(r.plain(), other.plain())
}

// plain is the block without its place in the file.
func (r *Replica) plain() *Replica {
	if r == nil {
		return nil
	}
	p := *r
	p.block = block{}
	p.Accounts = nil
	for _, a := range r.Accounts {
		p.Accounts = append(p.Accounts, &ReplicaAccount{Mask: a.Mask, Durability: a.Durability})
	}
	return &p
}

// ReplicaFolder is where a server keeps its own key for the partner and what
// replication needs beside the mailboxes.
func (f *File) ReplicaFolder() string { return filepath.Join(f.DataDir, "replica") }

// ReplicaKey tells where the key is that a server shows its partner: files, or
// the folder where it makes one itself. Like ControlSocket it overlooks
// mistakes: before the partner's pin is known there is no whole configuration.
func ReplicaKey(path string) (certFile, keyFile, folder string, node int, err error) {
	f, err := load(path)
	if f == nil {
		return "", "", "", 0, err
	}
	if f.Backend == nil || f.Backend.Replica == nil {
		return "", "", "", 0, fmt.Errorf("%s has no backend { replica { ... } } block; write it first, partner_pin may still be missing: docs/replication.md", path)
	}
	r := f.Backend.Replica
	return r.CertFile, r.KeyFile, f.ReplicaFolder(), f.Backend.Node, nil
}
