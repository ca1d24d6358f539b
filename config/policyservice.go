package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/policy/delegation"
)

// PolicyService is a program that check_policy_service asks.
type PolicyService struct {
	block
	Name string `conf:"name,label"`

	Address       string        `conf:"address" required:"where the service listens, such as \"unix:/run/postgrey/socket\" or \"inet:127.0.0.1:10023\"" doc:"Where the service listens: unix:/PATH or inet:HOST:PORT."`
	Timeout       time.Duration `conf:"timeout" default:"20s" doc:"Longest time one try may take, from connecting to the answer. Postfix waits 100s, for which clients wait, too."`
	MaxIdle       time.Duration `conf:"max_idle" default:"5m" doc:"How long a connection is kept unused."`
	MaxTTL        time.Duration `conf:"max_ttl" default:"1000s" doc:"How long a connection is used at all."`
	Requests      int           `conf:"request_limit" default:"0" doc:"How many questions a connection is used for. 0: any number."`
	Tries         int           `conf:"try_limit" default:"2" doc:"How often a question is asked before the default action holds."`
	RetryDelay    time.Duration `conf:"retry_delay" default:"1s" doc:"Pause between tries."`
	Connections   int           `conf:"connections" default:"50" doc:"Connections that are open at once; further questions wait for one, within the timeout."`
	DefaultAction string        `conf:"default_action" default:"451 4.3.5 Server configuration problem" doc:"The answer where the service gives none: any action of access tables, such as DUNNO."`
	Context       string        `conf:"policy_context" doc:"Passed on as policy_context, so that a service can tell restrictions apart."`
}

// PolicyServer is where other mail servers ask our lists.
type PolicyServer struct {
	block
	Name string `conf:"name,label"`

	Bind        []string       `conf:"bind" required:"where to listen, such as [\"unix:/var/spool/postfix/postern/policy\"]" doc:"Addresses to listen on: unix:PATH or host:port."`
	SocketMode  string         `conf:"socket_mode" default:"0660" oneof:"0600 0660 0666" doc:"Who may connect to the sockets."`
	Listener    string         `conf:"listener" required:"the listener whose lists decide, such as \"mx\"" doc:"Name of the listener whose lists decide."`
	Networks    []netip.Prefix `conf:"networks" doc:"Networks that may ask over TCP. The protocol knows neither passwords nor TLS, and who asks says who is logged in. Empty: this machine."`
	Connections int            `conf:"max_connections" default:"100" doc:"Connections that are open at once. Postfix opens one for each smtpd process."`
	Idle        time.Duration  `conf:"idle_timeout" default:"10m" doc:"How long a connection may ask nothing."`
	Timeout     time.Duration  `conf:"timeout" default:"30s" doc:"How long a question may take to arrive, and an answer to leave."`
}

func (c checker) policyServices(g *Gateway) {
	seen := make(map[string]bool)
	for _, s := range g.PolicyServices {
		if seen[s.Name] {
			c.errorf(s.at, "Repeated name", "There is a policy_service %q already.", s.Name)
		}
		seen[s.Name] = true
		if err := s.Room().Check(); err != nil && s.Address != "" {
			c.errorf(s.at, "Wrong value", "The policy service %s cannot be asked: %v.", s.Name, err)
		}
	}
	servers := make(map[string]bool)
	for _, s := range g.PolicyServers {
		if servers[s.Name] {
			c.errorf(s.at, "Repeated name", "There is a policy_server %q already.", s.Name)
		}
		servers[s.Name] = true
		for _, bind := range s.Bind {
			c.address(s.rangeOf("bind"), bind, true)
		}
		if s.Listener != "" && !slices.ContainsFunc(g.Listeners, func(l *SMTPListener) bool { return l.Name == s.Listener }) {
			c.errorf(s.rangeOf("listener"), "Unknown listener", "The gateway has no listener %q, whose lists could decide.", s.Listener)
		}
	}
}

// Room returns how the service is asked.
func (s *PolicyService) Room() delegation.Config {
	return delegation.Config{
		Name: s.Name, Address: s.Address, Timeout: s.Timeout, MaxIdle: s.MaxIdle, MaxTTL: s.MaxTTL, Requests: s.Requests, Tries: s.Tries,
		RetryDelay: s.RetryDelay, Connections: s.Connections, DefaultAction: s.DefaultAction, Context: s.Context,
	}
}

// Services returns how the policy services are asked, by name.
func (g *Gateway) Services() map[string]delegation.Config {
	all := make(map[string]delegation.Config)
	for _, s := range g.PolicyServices {
		all[s.Name] = s.Room()
	}
	return all
}

// Room returns who may ask our lists.
func (s *PolicyServer) Room() delegation.ServerConfig {
	return delegation.ServerConfig{Name: s.Name, Listener: s.Listener, Networks: s.Networks, Connections: s.Connections, Idle: s.Idle, Timeout: s.Timeout}
}

// AskedServers returns who may ask our lists, of every policy server.
func (g *Gateway) AskedServers() []delegation.ServerConfig {
	var all []delegation.ServerConfig
	for _, s := range g.PolicyServers {
		all = append(all, s.Room())
	}
	return all
}

// Permissions returns who may connect to the sockets.
func (s *PolicyServer) Permissions() fs.FileMode { return permissions(s.SocketMode) }
