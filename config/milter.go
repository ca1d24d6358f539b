package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/milter"
	"github.com/postern-mail/postern/policy/rspamd"
)

// Milter is a mail filter that speaks Sendmail's milter protocol. Steps of the
// content lists name it.
type Milter struct {
	block
	Name string `conf:"name,label"`

	Address        string        `conf:"address" required:"where the filter listens, such as \"unix:/run/opendkim/opendkim.sock\" or \"inet:127.0.0.1:8891\"" doc:"Where it listens: unix:/PATH, inet:HOST:PORT or, as filters write it themselves, inet:PORT@HOST."`
	OnError        string        `conf:"on_error" default:"tempfail" oneof:"accept tempfail hold shutdown" doc:"What follows when it is down, too slow or makes no sense. accept: mail goes on without it. tempfail: mail is put off (451 4.7.1). hold: mail is accepted and kept on hold until an operator releases it. shutdown: the session ends (421). Nothing refuses for good. An on_error at the step itself outranks it."`
	ConnectTimeout time.Duration `conf:"connect_timeout" default:"30s" doc:"Longest wait for a connection."`
	CommandTimeout time.Duration `conf:"command_timeout" default:"30s" doc:"Longest wait for its answer to a step of the dialogue, a field or a part of the body."`
	ContentTimeout time.Duration `conf:"content_timeout" default:"300s" doc:"Longest wait for its decision at the end of the message, or for the next sign that it is at work; twice that altogether."`
	Protocol       int           `conf:"protocol" default:"6" doc:"Highest version of the protocol to offer, 2 to 6. Filters of today agree on one by themselves."`
	Macros         []string      `conf:"macros" doc:"Values of macros, NAME=VALUE, in place of our own, such as [\"daemon_name=ORIGINATING\"]."`
	LocalClients   string        `conf:"local_clients" default:"localhost" oneof:"localhost unix" doc:"How clients of local listeners are shown, who come by a unix socket: as localhost with the address 127.0.0.1, or as a unix socket."`
	MaxIdle        int           `conf:"max_idle" default:"0" doc:"Connections that are kept for the next sessions. 0: each session makes its own. Only for filters that can serve several sessions on one, as rspamd can; those made with libmilter (OpenDKIM, ClamAV and most others) cannot."`
}

// milterConfig returns a filter as its room wants it.
func (f *File) milterConfig(m *Milter) (milter.Config, error) {
	network, address, err := milter.ParseAddress(m.Address)
	if err != nil {
		return milter.Config{}, err
	}
	cfg := milter.Config{
		Name: m.Name, Network: network, Address: address, OnError: milter.OnError(m.OnError),
		ConnectTimeout: m.ConnectTimeout, CommandTimeout: m.CommandTimeout, ContentTimeout: m.ContentTimeout,
		Protocol: uint32(max(m.Protocol, 1)), // #nosec G115 -- bounded by Check
		Hostname: f.Hostname, Software: "Postern", Macros: make(map[string]string),
		LocalAsUnix: m.LocalClients == "unix", MaxIdle: m.MaxIdle, TempDir: filepath.Join(f.DataDir, "tmp"),
	}
	for _, macro := range m.Macros {
		name, value, ok := strings.Cut(macro, "=")
		name = strings.Trim(strings.TrimSpace(name), "{}")
		if !ok || name == "" {
			return cfg, fmt.Errorf(`the macro %q is not NAME=VALUE`, macro)
		}
		cfg.Macros[name] = strings.TrimSpace(value)
	}
	return cfg, cfg.Check()
}

// Milters returns the filters of the configuration.
func (f *File) Milters() ([]milter.Config, error) {
	var all []milter.Config
	for _, m := range f.Gateway.Milters {
		cfg, err := f.milterConfig(m)
		if err != nil {
			return nil, fmt.Errorf("milter %s: %w", m.Name, err)
		}
		all = append(all, cfg)
	}
	return all, nil
}

// milters checks the filters.
func (c checker) milters(g *Gateway) {
	seen := make(map[string]bool)
	for _, m := range g.Milters {
		if seen[m.Name] {
			c.errorf(m.at, "Repeated name", "There is a milter %q already.", m.Name)
		}
		seen[m.Name] = true
		if _, err := c.file.milterConfig(m); err != nil {
			c.errorf(m.at, "Wrong milter", "%s.", capital(err.Error()))
		}
	}
}

// MilterStage makes the step `milter { use = "milter.NAME" }` of filters by
// their names.
func MilterStage(filters map[string]*milter.Milter) func(policy.Spec) (policy.Stage, error) {
	return func(spec policy.Spec) (policy.Stage, error) {
		for name := range spec.Args {
			if name != "use" && name != "on_error" {
				return nil, fmt.Errorf("it does not know the setting %q; it takes use and on_error", name)
			}
		}
		use := spec.Args["use"]
		if len(use) != 1 {
			return nil, fmt.Errorf(`it needs use = "milter.NAME", the name of a milter block`)
		}
		m := filters[strings.TrimPrefix(use[0], "milter.")]
		if m == nil {
			return nil, fmt.Errorf("there is no milter block %q in the gateway", strings.TrimPrefix(use[0], "milter."))
		}
		_, decided := spec.Args["on_error"]
		return m.Stage(decided), nil
	}
}

// inertMilters are the filters as checks need them; nobody asks them.
func (f *File) inertMilters() map[string]*milter.Milter {
	all := make(map[string]*milter.Milter)
	for _, m := range f.Gateway.Milters {
		cfg, err := f.milterConfig(m)
		if err != nil {
			cfg = milter.Config{Name: m.Name, Network: "unix", Address: "/"} // told already
		}
		if made, err := milter.New(cfg, hclog.NewNullLogger(), nil); err == nil {
			all[m.Name] = made
		}
	}
	return all
}

// Rspamd returns the settings of a step that asks rspamd by HTTP.
func (f *File) Rspamd(spec policy.Spec) (rspamd.Config, error) {
	cfg, err := rspamd.Parse(spec)
	cfg.Hostname = f.Hostname
	if cfg.PasswordFile != "" && !filepath.IsAbs(cfg.PasswordFile) {
		cfg.PasswordFile = filepath.Join(f.TableDir(), cfg.PasswordFile)
	}
	return cfg, err
}
