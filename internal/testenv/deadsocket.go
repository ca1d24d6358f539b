package testenv

import (
	"errors"
	"syscall"
	"testing"
)

// DeadSocket leaves a unix socket at path as a server does that was killed:
// nobody answers there. Nobody ever listened: a program that some test starts
// at this moment may hold a listener open for longer than whoever closed it.
func DeadSocket(t testing.TB, path string) {
	t.Helper()
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Bind(s, &syscall.SockaddrUnix{Name: path}), syscall.Close(s)); err != nil {
		t.Fatal(err)
	}
}
