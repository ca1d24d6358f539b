package greylist

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/table"
)

// Name is the restriction's name.
const Name = "check_greylist"

// Config says who waits, and how long.
type Config struct {
	// Delay is how long a first attempt is put off. 0: five minutes.
	Delay time.Duration
	// Window is how long after a first attempt another one is taken for its
	// repetition. 0: two days.
	Window time.Duration
	// Lifetime is how long who passed stays known after the last time. 0: 35 days.
	Lifetime time.Duration
	// IPv4Bits and IPv6Bits are the size of the network that counts as one
	// client. 0: 24 and 64.
	IPv4Bits, IPv6Bits int
	// AutoAllow is how many hours with a pass make a client known for every
	// sender and recipient. 0: never.
	AutoAllow int
	// Networks are clients that never wait, as all that logged in.
	Networks []netip.Prefix
	// PassSPF lets clients pass that an SPF check earlier in the lists found
	// permitted by the sender's domain.
	PassSPF bool
	// Pools are domains whose hosts, by their verified names, count as one
	// client each: big senders try again from anywhere.
	Pools []string
	// Clients and Recipients are tables of who never waits.
	Clients, Recipients []string
	// Delimiter starts the detail of a local-part. "": "+".
	Delimiter string
	// Text is what the client reads; %s are the seconds to wait, %r the
	// recipient's domain. "": the default.
	Text string
	// Header adds X-Greylist to mail that waited.
	Header bool
}

// DefaultText is what the client reads.
const DefaultText = "Greylisted, try again in %s seconds"

// DefaultPools are senders known to try again from many networks.
func DefaultPools() []string {
	return []string{
		"google.com", "outlook.com", "yahoo.com", "icloud.com", "amazonses.com", "sendgrid.net", "mailgun.net",
		"mcsv.net", "mandrillapp.com", "exacttarget.com", "mailjet.com", "facebook.com", "linkedin.com", "gmx.net", "web.de", "t-online.de",
	}
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v     *time.Duration
		value time.Duration
	}{{&c.Delay, 5 * time.Minute}, {&c.Window, 48 * time.Hour}, {&c.Lifetime, 35 * 24 * time.Hour}} {
		if *d.v == 0 {
			*d.v = d.value
		}
	}
	if c.IPv4Bits == 0 {
		c.IPv4Bits = 24
	}
	if c.IPv6Bits == 0 {
		c.IPv6Bits = 64
	}
	if c.Delimiter == "" {
		c.Delimiter = "+"
	}
	if c.Text == "" {
		c.Text = DefaultText
	}
	return c
}

// Check tells what is wrong.
func (c Config) Check() error {
	c = c.withDefaults()
	var all []error
	if c.Delay < 0 || c.Delay > 24*time.Hour {
		all = append(all, fmt.Errorf("a delay of %s is not between 0s and 24h", c.Delay))
	}
	if c.Window <= c.Delay {
		all = append(all, fmt.Errorf("a window of %s ends before the delay of %s does: nobody would ever pass", c.Window, c.Delay))
	}
	if c.Lifetime < c.Window {
		all = append(all, fmt.Errorf("a lifetime of %s is shorter than the window of %s", c.Lifetime, c.Window))
	}
	if c.IPv4Bits < 8 || c.IPv4Bits > 32 {
		all = append(all, fmt.Errorf("an IPv4 network of /%d is not between /8 and /32", c.IPv4Bits))
	}
	if c.IPv6Bits < 16 || c.IPv6Bits > 128 {
		all = append(all, fmt.Errorf("an IPv6 network of /%d is not between /16 and /128", c.IPv6Bits))
	}
	if c.AutoAllow < 0 {
		all = append(all, errors.New("auto_allow is below 0"))
	}
	return errors.Join(all...)
}

// attributes are what a restriction may say of its own, in place of the
// greylist block.
var attributes = map[string]func(c *Config, values []string) error{
	"delay":      duration(func(c *Config) *time.Duration { return &c.Delay }),
	"window":     duration(func(c *Config) *time.Duration { return &c.Window }),
	"lifetime":   duration(func(c *Config) *time.Duration { return &c.Lifetime }),
	"ipv4_bits":  number(func(c *Config) *int { return &c.IPv4Bits }),
	"ipv6_bits":  number(func(c *Config) *int { return &c.IPv6Bits }),
	"auto_allow": number(func(c *Config) *int { return &c.AutoAllow }),
	"pass_spf":   truth(func(c *Config) *bool { return &c.PassSPF }),
	"header":     truth(func(c *Config) *bool { return &c.Header }),
	"networks":   networks,
	"pools":      func(c *Config, values []string) error { c.Pools = values; return nil },
	"clients":    func(c *Config, values []string) error { c.Clients = values; return nil },
	"recipients": func(c *Config, values []string) error { c.Recipients = values; return nil },
	"text":       func(c *Config, values []string) error { c.Text = strings.Join(values, " "); return nil },
}

// Attributes are the names of what the restriction knows.
func Attributes() []string {
	names := []string{"on_error"}
	for name := range attributes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// With returns the configuration with what one restriction says of its own.
func (c Config) With(spec policy.Spec) (Config, error) {
	var all []error
	for name, values := range spec.Args {
		set, known := attributes[name]
		switch {
		case name == "on_error":
		case !known:
			all = append(all, fmt.Errorf("it does not know the attribute %q, only %s", name, strings.Join(Attributes(), ", ")))
		default:
			if err := set(&c, values); err != nil {
				all = append(all, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if len(all) == 0 {
		all = append(all, c.Check())
	}
	return c, errors.Join(all...)
}

func duration(of func(*Config) *time.Duration) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		text := strings.Join(values, " ")
		d, err := time.ParseDuration(text)
		if days, ok := strings.CutSuffix(text, "d"); ok {
			var n int
			n, err = strconv.Atoi(days)
			d = time.Duration(n) * 24 * time.Hour
		}
		if err != nil {
			return fmt.Errorf(`%q is no time such as "5m", "4h" or "2d"`, text)
		}
		*of(c) = d
		return nil
	}
}

func number(of func(*Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := strconv.Atoi(strings.Join(values, " "))
		if err != nil {
			return fmt.Errorf("%q is no number", strings.Join(values, " "))
		}
		*of(c) = n
		return nil
	}
}

func truth(of func(*Config) *bool) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		switch strings.Join(values, " ") {
		case "true", "yes":
			*of(c) = true
		case "false", "no":
			*of(c) = false
		default:
			return fmt.Errorf("%q is neither true nor false", strings.Join(values, " "))
		}
		return nil
	}
}

func networks(c *Config, values []string) error {
	c.Networks = nil
	for _, text := range values {
		network, err := table.ParseNetwork(text)
		if err != nil {
			return err
		}
		c.Networks = append(c.Networks, network)
	}
	return nil
}
