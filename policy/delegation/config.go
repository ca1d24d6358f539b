package delegation

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/policy"
)

// StageName is the restriction's name.
const StageName = "check_policy_service"

// Config is how one service is asked.
type Config struct {
	// Name is what log, metrics and status call it; "" takes Address.
	Name string
	// Address is unix:PATH or inet:HOST:PORT.
	Address string
	// Timeout bounds one try: connecting, asking, the answer. 0: 20 s.
	Timeout time.Duration
	// MaxIdle and MaxTTL are how long a connection is kept unused, and at all.
	// 0: 300 s and 1000 s.
	MaxIdle, MaxTTL time.Duration
	// Requests is how many questions a connection is used for; 0: any number.
	Requests int
	// Tries is how often a question is asked, RetryDelay the pause between.
	// 0: twice, 1 s.
	Tries      int
	RetryDelay time.Duration
	// Connections bounds those that are open at once. 0: 50.
	Connections int
	// DefaultAction is the answer where the service gives none. "": 451 4.3.5
	// Server configuration problem.
	DefaultAction string
	// Context is passed on as policy_context.
	Context string
	// Version is passed on as mail_version.
	Version string
}

// DefaultAction is the answer of a service that gives none, as Postfix has it.
const DefaultAction = "451 4.3.5 Server configuration problem"

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v     *time.Duration
		value time.Duration
	}{{&c.Timeout, 20 * time.Second}, {&c.MaxIdle, 300 * time.Second}, {&c.MaxTTL, 1000 * time.Second}, {&c.RetryDelay, time.Second}} {
		if *d.v <= 0 {
			*d.v = d.value
		}
	}
	if c.Tries <= 0 {
		c.Tries = 2
	}
	if c.Connections <= 0 {
		c.Connections = 50
	}
	if c.DefaultAction == "" {
		c.DefaultAction = DefaultAction
	}
	if c.Name == "" {
		c.Name = c.Address
	}
	return c
}

// place returns what to dial.
func (c Config) place() (network, address string, err error) {
	kind, rest, _ := strings.Cut(c.Address, ":")
	switch {
	case kind == "unix" && filepath.IsAbs(rest) && len(rest) <= 107:
		return "unix", rest, nil
	case kind == "unix":
		return "", "", fmt.Errorf("%q: a socket has an absolute path of at most 107 octets", c.Address)
	case kind == "inet":
		host, port, err := net.SplitHostPort(rest)
		if err == nil && host != "" {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err == nil && host != "" {
			return "tcp", rest, nil
		}
	}
	return "", "", fmt.Errorf("%q is neither unix:/PATH nor inet:HOST:PORT", c.Address)
}

// Check tells what is wrong.
func (c Config) Check() error {
	_, _, err := c.place()
	c = c.withDefaults()
	if c.Tries > 10 {
		err = errors.Join(err, fmt.Errorf("try_limit %d is above 10", c.Tries))
	}
	if wrong := policy.CheckAction(c.DefaultAction); wrong != nil {
		err = errors.Join(err, fmt.Errorf("default_action: %w", wrong))
	}
	return err
}

// attributes are what a restriction may say of its own.
var attributes = map[string]func(c *Config, value string) error{
	"address":        func(c *Config, value string) error { c.Address = value; return nil },
	"timeout":        duration(func(c *Config) *time.Duration { return &c.Timeout }),
	"max_idle":       duration(func(c *Config) *time.Duration { return &c.MaxIdle }),
	"max_ttl":        duration(func(c *Config) *time.Duration { return &c.MaxTTL }),
	"retry_delay":    duration(func(c *Config) *time.Duration { return &c.RetryDelay }),
	"request_limit":  number(func(c *Config) *int { return &c.Requests }),
	"try_limit":      number(func(c *Config) *int { return &c.Tries }),
	"connections":    number(func(c *Config) *int { return &c.Connections }),
	"default_action": func(c *Config, value string) error { c.DefaultAction = value; return nil },
	"policy_context": func(c *Config, value string) error { c.Context = value; return nil },
}

func duration(of func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf(`%q is no time such as "10s"`, value)
		}
		*of(c) = d
		return nil
	}
}

func number(of func(*Config) *int) func(*Config, string) error {
	return func(c *Config, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is no number", value)
		}
		*of(c) = n
		return nil
	}
}

const blockPrefix = "policy_service."

// With returns the configuration that a restriction means: that of the block it
// names, or its own, with what it says besides.
func With(spec policy.Spec, blocks map[string]Config) (Config, error) {
	var c Config
	var all []error
	if named := strings.Join(spec.Args["service"], " "); named != "" {
		known := false
		if c, known = blocks[strings.TrimPrefix(named, blockPrefix)]; !known {
			all = append(all, fmt.Errorf("there is no block policy_service %q", strings.TrimPrefix(named, blockPrefix)))
		}
		if spec.Args["address"] != nil {
			all = append(all, errors.New("service and address exclude each other"))
		}
	} else if spec.Args["address"] == nil {
		return c, errors.New(`it needs service = policy_service.NAME, or address = "unix:/PATH" or "inet:HOST:PORT"`)
	}
	for name, values := range spec.Args {
		set, known := attributes[name]
		switch {
		case name == "service" || name == "on_error":
		case !known:
			all = append(all, fmt.Errorf("it does not know the attribute %q, only %s", name, strings.Join(names(), ", ")))
		default:
			if err := set(&c, strings.Join(values, " ")); err != nil {
				all = append(all, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if len(all) == 0 {
		all = append(all, c.Check())
	}
	return c, errors.Join(all...)
}

func names() []string {
	all := []string{"on_error", "service"}
	for name := range attributes {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
