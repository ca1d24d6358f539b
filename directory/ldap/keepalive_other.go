//go:build !linux

package ldap

import (
	"net"
	"time"
)

// setUserTimeout does nothing where the system has no such setting: keepalive
// finds out later.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
