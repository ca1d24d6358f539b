package rspamd

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/policy"
)

// Config is how rspamd is asked and what follows. The zero values are not
// useful: Parse makes one.
type Config struct {
	// URLs are the servers, in order: http://HOST:PORT, https://HOST or unix:/PATH.
	URLs []string
	// PasswordFile holds the password in its first line; "" for none.
	PasswordFile string
	// Timeout bounds the question to one server.
	Timeout time.Duration
	// MaxMessage is the size beyond which messages are not asked about.
	MaxMessage int64
	// HoldRejected keeps what rspamd rejects on hold instead of refusing it.
	HoldRejected bool
	// IgnoreGreylist overlooks the action greylist, where somebody else does that.
	IgnoreGreylist bool
	// Headers says which X-Spam fields a message gets.
	Headers Headers
	// Settings names the settings that rspamd shall use; "" for its choice.
	Settings string
	// PutOffPeople puts mail off, too, of who logged in, when nobody answers.
	PutOffPeople bool
	// ErrorsToChain leaves all failures to the step's on_error.
	ErrorsToChain bool
	// Hostname is what we are called.
	Hostname string
}

// Headers is which X-Spam fields a message gets.
type Headers string

// What Headers can be.
const (
	HeadersSpam   Headers = "spam"   // X-Spam: Yes on what is taken for spam
	HeadersAlways Headers = "always" // and action, score and symbols on everything
	HeadersNever  Headers = "never"
)

// The settings of a step.
var settings = []string{
	"url", "password_file", "timeout", "max_message", "reject", "greylist", "headers", "settings", "authenticated", "on_error",
}

// Parse reads the settings of a step. The error says what is wrong.
func Parse(spec policy.Spec) (Config, error) {
	c := Config{Timeout: 30 * time.Second, MaxMessage: 50 << 20, Headers: HeadersSpam}
	for name := range spec.Args {
		if !slices.Contains(settings, name) {
			return c, fmt.Errorf("it does not know the setting %q; it takes %s", name, strings.Join(settings, ", "))
		}
	}
	c.URLs = spec.Args["url"]
	if len(c.URLs) == 0 {
		return c, fmt.Errorf(`it needs url, such as "http://127.0.0.1:11333"`)
	}
	for _, u := range c.URLs {
		if _, err := parseURL(u); err != nil {
			return c, err
		}
	}
	_, c.ErrorsToChain = spec.Args["on_error"]
	one := func(name string) string { return strings.Join(spec.Args[name], " ") }
	c.PasswordFile, c.Settings = one("password_file"), one("settings")
	if text := one("timeout"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return c, fmt.Errorf(`timeout is %q; write a time such as "30s"`, text)
		}
		c.Timeout = d
	}
	if text := one("max_message"); text != "" {
		n, err := octets(text)
		if err != nil {
			return c, err
		}
		c.MaxMessage = n
	}
	for _, choice := range []struct {
		name, otherwise string
		set             func(string)
		words           []string
	}{
		{"reject", "refuse", func(s string) { c.HoldRejected = s == "hold" }, []string{"refuse", "hold"}},
		{"greylist", "defer", func(s string) { c.IgnoreGreylist = s == "ignore" }, []string{"defer", "ignore"}},
		{"headers", "spam", func(s string) { c.Headers = Headers(s) }, []string{"spam", "always", "never"}},
		{"authenticated", "accept", func(s string) { c.PutOffPeople = s == "defer" }, []string{"accept", "defer"}},
	} {
		value := one(choice.name)
		if value == "" {
			value = choice.otherwise
		}
		if !slices.Contains(choice.words, value) {
			return c, fmt.Errorf("%s is %q; use %s", choice.name, value, strings.Join(choice.words, " or "))
		}
		choice.set(value)
	}
	return c, nil
}

// octets reads a size: a number, or one with KiB, MiB or GiB.
func octets(text string) (int64, error) {
	number, factor := text, int64(1)
	for suffix, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			number, factor = strings.TrimSpace(rest), f
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf(`max_message is %q; write a size such as "50 MiB"`, text)
	}
	return n * factor, nil
}

// place is where a server listens.
type place struct {
	socket string // of a unix socket; "" for TCP
	url    string // of the question
}

func parseURL(s string) (place, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return place{}, fmt.Errorf("the socket %q is no absolute path", path)
		}
		return place{socket: path, url: "http://localhost/checkv2"}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" {
		return place{}, fmt.Errorf("url %q is neither http://HOST:PORT nor unix:/PATH", s)
	}
	return place{url: strings.TrimSuffix(u.String(), "/") + "/checkv2"}, nil
}
