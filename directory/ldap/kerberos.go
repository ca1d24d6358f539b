package ldap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldap/v3/gssapi"
	krb5 "github.com/jcmturner/gokrb5/v8/client"
	krb5config "github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"
)

// systemKerberos is the configuration that all programs of a machine share.
const systemKerberos = "/etc/krb5.conf"

// Kerberos says as whom and by which key the service account logs in by SASL
// GSSAPI (RFC 4752). No security layer is put on the connection: TLS protects
// it, as it protects the other logins.
type Kerberos struct {
	// Principal is the account's: postern/mx.example.com, with or without
	// @REALM. Without it the configuration's default realm is meant.
	Principal string
	// Keytab holds its key. "" means that Kerberos is not used. It is read
	// again for every connection.
	Keytab string
	// ConfigFile is the krb5.conf that names realms and KDCs; "" means the
	// system's, and where that does not exist the DNS is asked for the KDCs of
	// Principal's realm. Its include directives are not followed.
	ConfigFile string
}

// errTicket is the part of the errors of which the directory knows nothing.
var errTicket = errors.New("kerberos")

func (k Kerberos) used() bool { return k.Keytab != "" }

// client reads the files and returns who asks for tickets. It asks for none.
func (k Kerberos) client() (*krb5.Client, error) {
	name, realm, _ := strings.Cut(k.Principal, "@")
	if name == "" {
		return nil, fmt.Errorf("%w: a keytab without the principal whose key it holds", errTicket)
	}
	conf, err := k.config()
	if err != nil {
		return nil, err
	}
	if realm == "" {
		realm = conf.LibDefaults.DefaultRealm
	}
	if realm == "" {
		return nil, fmt.Errorf("%w: no realm: neither the principal %s nor default_realm of krb5.conf names one", errTicket, k.Principal)
	}
	keys, err := keytab.Load(k.Keytab)
	if err != nil {
		return nil, fmt.Errorf("%w: keytab: %w", errTicket, err)
	}
	held := false
	for _, entry := range keys.Entries {
		held = held || entry.Principal.Realm == realm && strings.Join(entry.Principal.Components, "/") == name
	}
	if !held {
		return nil, fmt.Errorf("%w: keytab %s holds no key of %s@%s", errTicket, k.Keytab, name, realm)
	}
	// Active Directory answers no request with FAST's padata in it.
	return krb5.NewWithKeytab(name, realm, keys, conf, krb5.DisablePAFXFAST(true)), nil
}

func (k Kerberos) config() (*krb5config.Config, error) {
	file := k.ConfigFile
	if file == "" {
		file = systemKerberos
	}
	content, err := os.ReadFile(file)
	if k.ConfigFile == "" && errors.Is(err, fs.ErrNotExist) {
		conf := krb5config.New()
		conf.LibDefaults.DNSLookupKDC = true
		return conf, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTicket, err)
	}
	conf, err := krb5config.NewFromString(string(content))
	var unsupported krb5config.UnsupportedDirective // and without effect on what is asked here
	if err != nil && !errors.As(err, &unsupported) {
		return nil, fmt.Errorf("%w: %s: %w", errTicket, file, err)
	}
	return conf, nil
}

// service returns the principal of the directory at e. Tickets are for names:
// what the certificate must hold, or the URI's host.
func (cfg Config) service(e endpoint) (string, error) {
	host := e.host
	if cfg.ServerName != "" {
		host = cfg.ServerName
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", fmt.Errorf("%w: tickets are for names and not for addresses: write the name of %s in its URI, or set server_name", errTicket, host)
	}
	return "ldap/" + strings.ToLower(host), nil
}

// login is a ticket that one connection is bound by. close forgets it.
type login struct {
	client  *krb5.Client
	service string
}

// ticket gets one for the directory at e. The library knows no context: at its
// end the exchange is left behind, which its own timeouts of five seconds a KDC
// end.
func (cfg Config) ticket(ctx context.Context, e endpoint) (*login, error) {
	service, err := cfg.service(e)
	if err != nil {
		return nil, err
	}
	client, err := cfg.Kerberos.client()
	if err != nil {
		return nil, err
	}
	got := make(chan error, 1)
	go func() {
		got <- guard(func() error {
			_, _, err := client.GetServiceTicket(service)
			return err
		})
	}()
	select {
	case err := <-got:
		if err != nil {
			client.Destroy()
			return nil, fmt.Errorf("%w: ticket for %s: %w", errTicket, service, err)
		}
		return &login{client, service}, nil
	case <-ctx.Done():
		go func() {
			<-got
			client.Destroy()
		}()
		return nil, fmt.Errorf("%w: ticket for %s: no answer of the KDC: %w", errTicket, service, ctx.Err())
	}
}

// guard runs what reads answers of KDCs and servers. The library takes them for
// well made, and whoever can send one in the KDC's place, which takes no key, must
// not end the process.
func guard(read func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: an answer that breaks its reader: %v", errTicket, p)
		}
	}()
	return read()
}

func (t *login) bind(l *goldap.Conn) error {
	err := guard(func() error { return l.GSSAPIBind(&initiator{gssapi.Client{Client: t.client}}, t.service, "") })
	if err != nil {
		return fmt.Errorf("bind by SASL GSSAPI as %s: %w", t.client.Credentials.UserName(), err)
	}
	return nil
}

// initiator is the library's, which reads the server's last token only as
// Active Directory turns it.
type initiator struct{ gssapi.Client }

func (i *initiator) NegotiateSaslAuth(token []byte, authzid string) ([]byte, error) {
	return i.Client.NegotiateSaslAuth(checksumFirst(token), authzid)
}

// wrapHeader is the length of a wrap token's header (RFC 4121 section 4.2.6.2).
const wrapHeader = 16

// checksumFirst turns what follows a wrap token's header so that the checksum
// stands before the content. In a token that is not encrypted the checksum
// follows the content, and then all is turned right by RRC octets (RFC 4121
// section 4.2.5): MIT's library sends 0, Active Directory the checksum's length.
// A token that is too short is returned as it is.
func checksumFirst(token []byte) []byte {
	if len(token) <= wrapHeader {
		return token
	}
	header, body := token[:wrapHeader], token[wrapHeader:]
	checksum, turned := int(binary.BigEndian.Uint16(header[4:])), int(binary.BigEndian.Uint16(header[6:]))
	if checksum > len(body) {
		return token
	}
	cut := (turned%len(body) + len(body) - checksum) % len(body) // where the checksum begins
	return slices.Concat(header, body[cut:], body[:cut])
}

// close ends what the library has running to renew tickets.
func (t *login) close() { t.client.Destroy() }
