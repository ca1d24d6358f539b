// Package unixsock opens unix sockets the way all servers of the house do.
package unixsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Listen opens a socket for its owner and group, and makes its folder where
// there is none. The socket of a server that died is replaced; that of one
// that lives stays, and so does whatever is no socket.
func Listen(path string) (net.Listener, error) { return ListenFor(path, 0o660) }

// ListenFor is Listen with other permissions. Where they let everybody in, so
// do those of a folder it makes.
func ListenFor(path string, mode fs.FileMode) (net.Listener, error) {
	folder := fs.FileMode(0o750)
	if mode&0o007 != 0 {
		folder = 0o755
	}
	if err := makeWay(path, folder); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// makeWay removes a dead socket, and makes the folder where it is missing.
func makeWay(path string, folder fs.FileMode) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(filepath.Dir(path), folder)
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is something that is no socket; move it away, or choose another path")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
		return errors.New("another server answers there")
	}
	// Anything but a refusal may be a server that is busy.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
