package helper

import (
	"context"
	"io"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config of a Client.
type Config struct {
	// Name tells in logs whose helper it is.
	Name string
	// Socket is where a helper listens that somebody else runs, usually
	// systemd. Default: the daemon runs the helper itself, with its own rights.
	Socket string
	// Command starts a helper of ours; default "/proc/self/exe auth-helper".
	Command []string
	// Args are what it is to serve; see package process.
	Args []string
}

// Client reaches the helper. Safe for concurrent use. Run keeps the helper
// alive where the daemon runs it.
type Client struct {
	cfg   Config
	uids  []int  // whom the helper may run as
	child *child // nil with Config.Socket
}

// New returns a client. It starts and makes nothing: without Config.Socket
// questions wait for the helper that Run starts.
func New(cfg Config, log hclog.Logger) *Client {
	c := &Client{cfg: cfg, uids: []int{0, os.Geteuid()}}
	if cfg.Socket == "" {
		c.child = newChild(cfg, log)
	}
	return c
}

// Run keeps the helper running until ctx ends; with Config.Socket there is
// nothing to do and it only waits.
func (c *Client) Run(ctx context.Context) error {
	if c.child == nil {
		<-ctx.Done()
		return nil
	}
	return c.child.run(ctx)
}

// Failing tells that a helper of ours ends again and again, and so answers
// nothing. It answers from memory.
func (c *Client) Failing() bool { return c.child != nil && c.child.failures.Load() >= 3 }

// Dial opens a connection to the helper, which the caller closes. The end of
// ctx closes it, too.
func (c *Client) Dial(ctx context.Context) (*Conn, error) {
	path := c.cfg.Socket
	if c.child != nil {
		var err error
		if path, err = c.child.socket(ctx); err != nil {
			return nil, err
		}
	}
	var dialer net.Dialer
	dialed, err := dialer.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, err
	}
	conn := dialed.(*net.UnixConn)
	if err := CheckPeer(conn, c.uids); err != nil {
		conn.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return &Conn{conn: conn, stop: stop, ended: ctx.Err}, nil
}

// Conn is a connection to the helper, for one goroutine.
type Conn struct {
	conn  *net.UnixConn
	stop  func() bool
	ended func() error // of the context it was opened with
}

// Close closes the connection; closing again does nothing.
func (c *Conn) Close() error {
	c.stop()
	return c.conn.Close()
}

// Ask sends a message and returns the answer, which has at most so many octets:
// of a longer one it returns one more, for the reader to refuse. A timeout of 0
// waits as long as the context lasts.
func (c *Conn) Ask(message []byte, most int, timeout time.Duration) ([]byte, error) {
	answer, err := c.ask(message, most, timeout)
	if err != nil && c.ended() != nil {
		return nil, c.ended()
	}
	return answer, err
}

func (c *Conn) ask(message []byte, most int, timeout time.Duration) ([]byte, error) {
	if timeout > 0 {
		if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
			return nil, err
		}
	}
	if _, err := c.conn.Write(message); err != nil {
		return nil, err
	}
	buf := make([]byte, most+1)
	n, err := c.conn.Read(buf)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return buf[:n], err
}
