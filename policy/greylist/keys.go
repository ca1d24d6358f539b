package greylist

import (
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// separator stands between the parts of a triplet's key. It is in no address.
const separator = "\x00"

// clientOf returns what stands for a client: its pool, or its network.
func (c *Config) clientOf(client *mail.Client) string {
	if pool := c.poolOf(client.Hostname); pool != "" {
		return pool
	}
	return c.networkOf(client.Remote.Addr())
}

// poolOf returns the pool that a verified name of a host is in, or "".
func (c *Config) poolOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for host != "" {
		for _, pool := range c.Pools {
			if host == pool {
				return pool
			}
		}
		_, host, _ = strings.Cut(host, ".")
	}
	return ""
}

// ClientKey returns the network of an address as the lists have it.
func (c Config) ClientKey(ip netip.Addr) string {
	c = c.withDefaults()
	return c.networkOf(ip)
}

func (c *Config) networkOf(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	bits := c.IPv6Bits
	if ip.Is4() {
		bits = c.IPv4Bits
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return "local" // by a unix socket
	}
	return network.String()
}

// senderOf returns what stands for a sender. Lists, and forwarders that mark
// addresses, write for each message from another one: numbers and tokens in
// the local-part, and its detail, do not count.
func (c *Config) senderOf(address mail.Address) string {
	if address.IsNull() {
		return "<>"
	}
	local := strings.ToLower(string(address.Local))
	if len(local) > 5 && (strings.HasPrefix(local, "srs0") || strings.HasPrefix(local, "srs1")) {
		local = withoutMarks(local)
	} else if at := strings.IndexAny(local, c.Delimiter); at > 0 {
		local = local[:at]
	}
	return withoutTokens(local) + "@" + strings.ToLower(string(address.Domain))
}

// withoutMarks takes hashes and times out of an address rewritten by SRS:
// SRS0=HHH=TT=domain=local and SRS1=HHH=forwarder==HHH=TT=domain=local.
func withoutMarks(local string) string {
	tag, parts := local[:4], strings.Split(local[5:], "=")
	from := 2 // hash and time
	if tag == "srs1" {
		from = 5 // hash, forwarder, nothing, hash, time
	}
	if len(parts) <= from {
		return local
	}
	return tag + "=" + strings.Join(parts[from:], "=")
}

// longToken is how long a run of letters is that is taken for random.
const longToken = 24

// withoutTokens puts # in the place of runs of letters and digits that have a
// digit, or are too long for a word.
func withoutTokens(local string) string {
	var b strings.Builder
	b.Grow(len(local))
	for at := 0; at < len(local); {
		end, digit := at, false
		for end < len(local) && isWord(local[end]) {
			digit = digit || local[end] >= '0' && local[end] <= '9'
			end++
		}
		switch {
		case end == at:
			b.WriteByte(local[at])
			end++
		case digit || end-at >= longToken:
			b.WriteByte('#')
		default:
			b.WriteString(local[at:end])
		}
		at = end
	}
	return b.String()
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

func recipientOf(address mail.Address) string { return strings.ToLower(address.String()) }
