package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Stream begins a conversation with an operator's process. Its error is the
// answer in the place of a conversation. serve then has the connection, which
// it closes; ctx ends with the server, which waits for it.
type Stream func(ctx context.Context, args url.Values) (serve func(ctx context.Context, conn net.Conn) error, err error)

// Streams is what an operator may have conversations about, by name.
type Streams map[string]Stream

const streamPath = "/stream/"

func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, streamPath)
	stream := s.streams[name]
	if stream == nil {
		http.Error(w, fmt.Sprintf("this server knows nothing of %q; is it of another version?", name), http.StatusNotFound)
		return
	}
	var args url.Values
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLineOctets)).Decode(&args); err != nil {
		http.Error(w, "malformed arguments: "+err.Error(), http.StatusBadRequest)
		return
	}
	ctx := r.Context() // it ends with the server
	s.conversations.Add(1)
	defer s.conversations.Done()
	serve, err := stream(ctx, args)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	conn, err := s.switchOver(w)
	if err != nil {
		s.log.Warn("conversation not begun", "stream", name, "err", err)
		return
	}
	if err := serve(ctx, conn); err != nil {
		s.log.Info("conversation ended", "stream", name, "err", err)
	}
}

// maxLineOctets bounds the arguments of a conversation.
const maxLineOctets = 64 << 10

// switchOver takes the connection from HTTP.
func (s *Server) switchOver(w http.ResponseWriter) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // an error shows when writing
	_, err = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: postern\r\n\r\n")
	if err == nil {
		err = rw.Flush()
	}
	if err == nil && rw.Reader.Buffered() > 0 {
		err = errors.New("the client spoke before it was asked to")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	_ = conn.SetDeadline(time.Time{}) // whoever serves it sets its own
	return conn, nil
}

// Open begins a conversation with the server at socket. Errors as Call's; the
// caller closes the connection.
func Open(ctx context.Context, socket, name string, args url.Values) (net.Conn, error) {
	body, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://postern"+streamPath+name, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "postern")
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, unanswered(socket, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	br := bufio.NewReader(conn)
	response, err := exchange(conn, br, request)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return nil, errors.Join(errors.New(strings.TrimSpace(string(text))), conn.Close())
	}
	return &buffered{Conn: conn, br: br}, nil
}

func exchange(conn net.Conn, br *bufio.Reader, request *http.Request) (*http.Response, error) {
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(br, request)
}

// buffered is a connection of which some was read already.
type buffered struct {
	net.Conn
	br *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.br.Read(p) }
